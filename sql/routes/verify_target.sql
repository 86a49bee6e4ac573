-- Rows of a target whose event the route counts as refused, or as deferred.
select (
    select count(*) from {target} t join {schema}.route_errors e on e.route = $1 and e.event_id = t.event_id
) + (
    select count(*) from {target} t join {schema}.route_deferred d
        on d.route = $1 and t.event_id between d.low and d.high and {schema}.ingest_tag(t.event_id) = d.tag
        and {schema}.ingest_sequence(t.event_id) between d.first and d.last
) as doubled
