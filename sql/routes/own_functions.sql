-- The functions belong to the route's role. Only the service calls them.
revoke all on function {schema}.{function}() from public;
revoke all on function {schema}.{function}_apply({schema}.requests[]) from public;
alter function {schema}.{function}() owner to {role};
alter function {schema}.{function}_apply({schema}.requests[]) owner to {role};
