-- The function of a route's trigger. It runs as the route's role. The batch is one set first; where a row of it is at fault, `apply` takes it
-- in parts. Conditions stand for classes of SQLSTATEs: 40 is raised, so that the writer retries the batch; 22, 23, 54 and P0 are
-- a row's; any other suspends the route, and with the outer block nothing of the batch is left behind.
create or replace function {schema}.{function}() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '250ms'
as {quote}
#variable_conflict use_column
declare
    route_started constant timestamptz := clock_timestamp();
    route_state text;
    route_until uuid;
    route_written bigint;
    route_faulty boolean := false;
    route_ids uuid[];
    route_states text[];
    route_messages text[];
    route_message text;
begin
    {probed}
    select begun.state, begun.backfill_until into route_state, route_until
    from {schema}.tidegate_route_begin({id}, {serial}) as begun;
    if route_state is null or route_state in ('disabled', 'removed') then
        return null;
    end if;
    if route_until is not null then
        perform {schema}.tidegate_route_pass({id}, (select array_agg(batch.id) from batch where batch.id <= route_until));
    end if;
    if route_state = 'live' then
        begin
            begin
                {insert};
                get diagnostics route_written = row_count;
                set constraints all immediate;
            exception
                when transaction_rollback then
                    raise;
                when data_exception or integrity_constraint_violation or program_limit_exceeded or plpgsql_error then
                    {strict}
                    route_faulty := true;
            end;
            if route_faulty then
                select done.written, done.ids, done.states, done.messages
                into route_written, route_ids, route_states, route_messages
                from {schema}.{function}_apply((select array_agg(row(batch.*)::{schema}.requests) from batch)) as done;
            end if;
            perform {schema}.tidegate_route_end({id}, route_written,
                (extract(epoch from clock_timestamp() - route_started) * 1000000)::bigint, route_ids, route_states, route_messages);
            return null;
        exception
            when transaction_rollback then
                raise;
            {strict_outer}
            when others then
                get stacked diagnostics route_state = returned_sqlstate, route_message = message_text;
        end;
        perform {schema}.tidegate_route_suspend({id}, route_state, route_message);
    end if;
    perform {schema}.tidegate_route_defer({id}, (select array_agg(batch.id) from batch));
    return null;
end
{quote}
