-- A few trace ids of a run that appear in more than one row; parameters as in count_run.sql.
select trace_id
  from (
    select trace_id
      from requests
     where id >= $1::text::uuid
       and starts_with(trace_id, $2::text)
    union all
    select trace_id
      from dead_letters
     where reason is distinct from 'overload'
       and starts_with(trace_id, $2::text)
  ) as kept
 group by trace_id
having count(*) > 1
 order by trace_id
 limit 5
