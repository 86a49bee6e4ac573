-- The payloads of the events for which a condition holds. It runs as the role of routes.
create or replace function {schema}.tidegate_route_suggest(route_rows {schema}.requests[]) returns setof text
language sql stable security definer
set search_path = pg_catalog, pg_temp
as {quote}
with batch as (select * from pg_catalog.unnest(route_rows))
select suggest_row.payload::text from ({select}) as suggest_row where jsonb_typeof(suggest_row.payload) = 'object'
{quote};
revoke all on function {schema}.tidegate_route_suggest({schema}.requests[]) from public;
alter function {schema}.tidegate_route_suggest({schema}.requests[]) owner to {role};
