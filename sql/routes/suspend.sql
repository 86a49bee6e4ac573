-- Suspends the first live route of $3, whose function was cancelled. No row: none of them is live.
update {schema}.event_routes
set state = 'suspended', suspended_at = clock_timestamp(), sqlstate = $1, error = left($2, 1000)
where state = 'live' and id = (
    select r.id from unnest($3::integer[]) with ordinality as named (id, place) join {schema}.event_routes r on r.id = named.id
    where r.state = 'live' order by named.place limit 1
)
returning name
