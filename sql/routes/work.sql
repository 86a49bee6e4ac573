-- What each route has still to do, and what it did.
select r.id, r.name, r.state, r.sqlstate, r.error, cardinality(r.key_columns) > 0 as has_key, r.backfill_until is not null as is_filling,
    r.backfilled, r.version, coalesce(counts.rows, 0)::bigint as rows, coalesce(counts.refused, 0)::bigint as refused,
    (select count(*) from (select from {schema}.route_errors e where e.route = r.id limit 10000) capped) as errors,
    coalesce(counts.microseconds, 0)::bigint as microseconds, coalesce(counts.records, 0)::bigint as records,
    (select coalesce(sum(d.events), 0)::bigint from {schema}.route_deferred d where d.route = r.id) as deferred
from {schema}.event_routes r
left join lateral (
    select sum(c.rows) as rows, sum(c.errors) as refused, sum(c.microseconds) as microseconds, count(*) as records
    from {schema}.route_counts c where c.route = r.id
) counts on true
order by r.id
