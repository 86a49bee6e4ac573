-- Finds the rows that violate a CHECK constraint of requests: evaluates the constraint over all rows of the probe at once. An
-- expression that fails, on a row that Postgres cannot read or for a column of the user's own, decides nothing.
create function pg_temp.tidegate_probe_checks()
    returns table (place integer, state text, violated text, message text)
    language plpgsql
    as $probe$
declare
    check_constraint record;
begin
    for check_constraint in
        select conname, pg_catalog.pg_get_expr(conbin, conrelid) as expression
        from pg_catalog.pg_constraint
        where conrelid = '{schema}.requests'::regclass and contype = 'c'
    loop
        begin
            return query execute format(
                $check$
                select place, '23514', %1$L::text,
                    format('new row for relation "requests" violates check constraint "%%s"', %1$L)
                from (
                    select probe.place, probe.id, convert_from(probe.trace_id, 'UTF8') as trace_id,
                        convert_from(substr(probe.payload, 2), 'UTF8')::jsonb as payload, probe.body,
                        convert_from(probe.content_type, 'UTF8') as content_type, probe.received_at
                    from pg_temp.tidegate_probe probe
                ) requests
                where (%2$s) is false
                $check$,
                check_constraint.conname, check_constraint.expression
            );
        exception when others then
            null;
        end;
    end loop;
end
$probe$;
