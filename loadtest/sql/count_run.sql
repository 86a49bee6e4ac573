-- The rows of one run.
--   $1  the lowest UUIDv7 that the run can have: trace_id has no index, the primary key narrows the scan
--   $2  the prefix of every trace id of the run
--   $3  trace ids of events whose answer never came
-- An event rejected for overload is kept as a dead letter too, without a promise to keep it.
with kept as (
    select trace_id, false as is_dead
      from requests
     where id >= $1::text::uuid
       and starts_with(trace_id, $2::text)
    union all
    select trace_id, true
      from dead_letters
     where reason is distinct from 'overload'
       and starts_with(trace_id, $2::text)
),
by_trace as (
    select trace_id,
           count(*) filter (where not is_dead) as stored,
           count(*) filter (where is_dead) as dead
      from kept
     group by trace_id
)
select coalesce(sum(stored), 0)::bigint as stored,
       coalesce(sum(dead), 0)::bigint as dead,
       count(*) filter (where unanswered.trace_id is null) as answered,
       count(*) filter (where unanswered.trace_id is not null) as unanswered
  from by_trace
  left join unnest($3::text[]) as unanswered (trace_id) using (trace_id)
