-- The next 500 events before $1, newest first: the last id, their number, and the payloads that are wanted.
with newest as (
    select one from {schema}.requests one where one.id < $1 order by one.id desc limit $2
)
select (select min((one).id::text)::uuid from newest) as last, (select count(*) from newest) as read,
    array(select {schema}.tidegate_route_suggest((select array_agg(one) from newest))) as payloads
