-- Runs a route over events, as its role: all at once; where a row is at fault, {chunk} at a time, and one by one in those that fail. Returns
-- the rows that were written, and the refused events with their errors. An error that is no row's is raised, and nothing is written.
create or replace function {schema}.{function}_apply(
    route_batch {schema}.requests[], out written bigint, out ids uuid[], out states text[], out messages text[]
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '250ms'
as {quote}
#variable_conflict use_column
declare
    route_rows {schema}.requests[] := route_batch;
    route_chunk {schema}.requests[];
    route_one {schema}.requests;
    route_place integer := 1;
    route_stored bigint;
    route_state text;
    route_message text;
begin
    written := 0;
    begin
        {insert};
        get diagnostics route_stored = row_count;
        set constraints all immediate;
        written := route_stored;
        return;
    exception
        when transaction_rollback then
            raise;
        when data_exception or integrity_constraint_violation or program_limit_exceeded or plpgsql_error then
            get stacked diagnostics route_state = returned_sqlstate, route_message = message_text;
    end;
    {whole}
    while route_place <= cardinality(route_batch) loop
        route_chunk := route_batch[route_place : route_place + {chunk} - 1];
        route_place := route_place + {chunk};
        begin
            route_rows := route_chunk;
            {insert};
            get diagnostics route_stored = row_count;
            set constraints all immediate;
            written := written + route_stored;
        exception
            when transaction_rollback then
                raise;
            when data_exception or integrity_constraint_violation or program_limit_exceeded or plpgsql_error then
                foreach route_one in array route_chunk loop
                    begin
                        route_rows := array[route_one];
                        {insert};
                        get diagnostics route_stored = row_count;
                        set constraints all immediate;
                        written := written + route_stored;
                    exception
                        when transaction_rollback then
                            raise;
                        when data_exception or integrity_constraint_violation or program_limit_exceeded or plpgsql_error then
                            get stacked diagnostics route_state = returned_sqlstate, route_message = message_text;
                            ids := ids || route_one.id;
                            states := states || route_state;
                            messages := messages || route_message;
                    end;
                end loop;
        end;
    end loop;
end
{quote}
