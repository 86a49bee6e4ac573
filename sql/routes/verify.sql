-- For each route: rows that it wrote, refused and deferred events, and how many of these are no longer in requests.
select r.id, r.name, r.target_schema, r.target_table, 'event_id' = any(r.target_columns) as has_event,
    coalesce((select sum(c.rows) from {schema}.route_counts c where c.route = r.id), 0)::bigint as rows,
    (select count(*) from {schema}.route_errors e where e.route = r.id) as refused,
    (select count(*) from {schema}.route_errors e
        where e.route = r.id and not exists (select from {schema}.requests where requests.id = e.event_id)) as refused_gone,
    (select coalesce(sum(d.events), 0)::bigint from {schema}.route_deferred d where d.route = r.id) as deferred,
    (select count(*) from {schema}.route_deferred d join {schema}.requests requests
        on requests.id between d.low and d.high and {schema}.ingest_tag(requests.id) = d.tag
        and {schema}.ingest_sequence(requests.id) between d.first and d.last
        where d.route = r.id) as deferred_there,
    to_regclass(format('%I.%I', r.target_schema, r.target_table)) is not null as has_target
from {schema}.event_routes r
where r.state <> 'removed'
order by r.name
