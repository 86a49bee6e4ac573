-- Of a route: rows that it wrote, refused and deferred events, and how many of these are no longer in requests.
select
    coalesce((select sum(c.rows) from {schema}.route_counts c where c.route = $1), 0)::bigint as rows,
    (select count(*) from {schema}.route_errors e where e.route = $1) as refused,
    (select count(*) from {schema}.route_errors e
        where e.route = $1 and not exists (select from {schema}.requests where requests.id = e.event_id)) as refused_gone,
    (select coalesce(sum(d.events), 0)::bigint from {schema}.route_deferred d where d.route = $1) as deferred,
    (select count(*) from {schema}.route_deferred d join {schema}.requests requests
        on requests.id between d.low and d.high and {schema}.ingest_tag(requests.id) = d.tag
        and {schema}.ingest_sequence(requests.id) between d.first and d.last
        where d.route = $1) as deferred_there
