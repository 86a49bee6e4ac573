-- The events of which a route's select makes rows, and their numbers. It runs as the route's role. Events that it fails for are left out.
create temporary table tidegate_verify (event uuid, events_rows bigint) on commit drop;
create function {schema}.tidegate_route_verify(route_batch {schema}.requests[], out events uuid[], out numbers bigint[])
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as {quote}
#variable_conflict use_column
declare
    route_rows {schema}.requests[] := route_batch;
    route_one {schema}.requests;
    route_events uuid[];
    route_numbers bigint[];
begin
    begin
        select array_agg(route_found.event), array_agg(route_found.number) into events, numbers from (
            with batch as (select * from pg_catalog.unnest(route_rows))
            select route_row.{event} as event, count(*) as number from (
{select}
            ) as route_row group by 1
        ) as route_found;
        return;
    exception
        when data_exception or integrity_constraint_violation or program_limit_exceeded or plpgsql_error then
            events := null;
    end;
    foreach route_one in array route_batch loop
        begin
            route_rows := array[route_one];
            select array_agg(route_found.event), array_agg(route_found.number) into route_events, route_numbers from (
                with batch as (select * from pg_catalog.unnest(route_rows))
                select route_row.{event} as event, count(*) as number from (
{select}
                ) as route_row group by 1
            ) as route_found;
            events := events || route_events;
            numbers := numbers || route_numbers;
        exception
            when data_exception or integrity_constraint_violation or program_limit_exceeded or plpgsql_error then
                null;
        end;
    end loop;
end
{quote};
revoke all on function {schema}.tidegate_route_verify({schema}.requests[]) from public;
alter function {schema}.tidegate_route_verify({schema}.requests[]) owner to {role};
