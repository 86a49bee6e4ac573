-- The next $3 events behind $2, without those that the route $1 refused: counted. Returns the last one.
with page as (
    select one from {schema}.requests one where one.id > $2 order by one.id limit $3
), counted as (
    insert into pg_temp.tidegate_verify (event, events_rows)
    select event, number
    from {schema}.tidegate_route_verify((
        select array_agg(one) from page where not exists (select from {schema}.route_errors e where e.route = $1 and e.event_id = (one).id)
    )) as found, unnest(found.events, found.numbers) as taken (event, number)
)
select max((one).id::text)::uuid from page
