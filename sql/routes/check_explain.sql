-- The plan of a route's insert over the sample. It is made as the route's role: the planner may run functions of users.
grant select on pg_temp.tidegate_check_plain to {role};
create function {schema}.tidegate_route_explain() returns setof text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as {quote}
#variable_conflict use_column
declare
    route_line text;
begin
    for route_line in explain {insert} loop
        return next route_line;
    end loop;
end
{quote};
revoke all on function {schema}.tidegate_route_explain() from public;
alter function {schema}.tidegate_route_explain() owner to {role};
