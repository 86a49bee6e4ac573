-- The next $3 events behind $2, or fewer if they are large, are counted, without those that the route $1 refused. Returns the last one.
with next as (
    select one from {schema}.requests one where one.id > $2 order by one.id limit $3
), sized as (
    select one, row_number() over place as number,
        sum(coalesce(octet_length((one).body), 0)::bigint + 4 * coalesce(pg_column_size((one).payload), 0)::bigint) over place as bytes
    from next
    window place as (order by (one).id)
), page as (
    select one from sized where number = 1 or bytes <= 16777216
), counted as (
    insert into pg_temp.tidegate_verify (event, events_rows)
    select event, number
    from {schema}.tidegate_route_verify((
        select array_agg(one) from page where not exists (select from {schema}.route_errors e where e.route = $1 and e.event_id = (one).id)
    )) as found, unnest(found.events, found.numbers) as taken (event, number)
)
select max((one).id::text)::uuid from page
