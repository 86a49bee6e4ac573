-- The routes by name, or the one named $1, each with what it did and has still to do.
select r.id, r.name, r.target_schema, r.target_table, format('%I.%I', r.target_schema, r.target_table) as target, r.statement, r.target_columns, r.key_columns, r.on_conflict,
    r.run_as, r.strict, r.serial, r.whole, r.state, r.sqlstate, r.error, r.version, r.was_live, r.backfill_wanted, r.backfilled,
    r.backfill_until is not null as is_filling, r.backfill_at, r.backfill_until,
    to_char(r.suspended_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as suspended_at,
    to_char(r.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as created_at,
    to_char(r.updated_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as updated_at,
    coalesce(counts.rows, 0)::bigint as rows, coalesce(counts.refused, 0)::bigint as refused,
    coalesce(counts.microseconds, 0)::bigint as microseconds, coalesce(counts.batches, 0)::bigint as batches,
    (select count(*) from {schema}.route_errors e where e.route = r.id) as errors,
    (select coalesce(sum(d.events), 0)::bigint from {schema}.route_deferred d where d.route = r.id) as deferred
from {schema}.event_routes r
left join lateral (
    select sum(c.rows) as rows, sum(c.errors) as refused, sum(c.microseconds) as microseconds, sum(c.batches) as batches
    from {schema}.route_counts c where c.route = r.id
) counts on true
where r.state <> 'removed' and ($1::text is null or r.name = $1)
order by r.name
