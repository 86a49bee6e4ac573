-- Compares the target of the route $1 with the events of which its select makes rows, by event.
with target as (
    select t.{event} as event, count(*) as number from {target} t where t.{event} is not null group by 1
), other as (
    select e.event_id as event from {schema}.route_errors e where e.route = $1
    union all
    select requests.id from {schema}.route_deferred d join {schema}.requests requests
        on requests.id between d.low and d.high and {schema}.ingest_tag(requests.id) = d.tag
        and {schema}.ingest_sequence(requests.id) between d.first and d.last
        where d.route = $1
)
select coalesce(sum(target.number), 0)::bigint as rows,
    coalesce(sum(target.number) filter (where other.event is not null), 0)::bigint as doubled,
    coalesce(sum(target.number - taken.events_rows) filter (where target.number > taken.events_rows), 0)::bigint as repeated,
    coalesce(sum(target.number) filter (where taken.event is null and other.event is null), 0)::bigint as without_event,
    count(*) filter (where target.event is null and other.event is null and taken.event is not null) as not_routed
from target
full join pg_temp.tidegate_verify taken on taken.event = target.event
left join other on other.event = coalesce(target.event, taken.event)
