-- Inserts the rows into requests, so that a user's constraints and triggers see them as they see a COPY's: {chunk}
-- rows at a time, and row by row where that fails or stores fewer rows. Returns the rows that fail, and those
-- that a trigger drops, which have no state. Rows that do not fail stay visible to later ones, as in a COPY.
--
-- An error that may not be a row's fault ends the probe, which decides nothing then: a SQLSTATE outside the classes of row
-- errors (among them cancellation, a lock time-out, a deadlock, resources), a missing partition (a check violation without a
-- constraint), a clash of ids (an earlier attempt may have been stored), an error in one of the service's tables, and the stack
-- depth, which is less here than for a COPY.
create function pg_temp.tidegate_probe_inserts()
    returns table (place integer, state text, violated text, message text)
    language plpgsql
    as $probe$
declare
    chunk constant integer := {chunk};
    start integer := 0;
    rows integer := (select count(*) from pg_temp.tidegate_probe);
    chunk_rows integer;
    stored integer;
    one record;
    on_table text;
begin
    -- An insert follows rules, which a COPY does not.
    if exists (select from pg_catalog.pg_rewrite where ev_class = '{schema}.requests'::regclass and ev_type = '3') then
        raise exception 'requests has a rule for inserts' using errcode = 'feature_not_supported';
    end if;
    while start < rows loop
        chunk_rows := least(chunk, rows - start);
        begin
            insert into {schema}.requests (id, trace_id, payload, body, content_type, received_at)
            select probe.id, convert_from(probe.trace_id, 'UTF8'),
                convert_from(substr(probe.payload, 2), 'UTF8')::jsonb, probe.body,
                convert_from(probe.content_type, 'UTF8'), probe.received_at
            from pg_temp.tidegate_probe probe
            where probe.place >= start and probe.place < start + chunk_rows
            order by probe.place;
            get diagnostics stored = row_count;
            if stored < chunk_rows then
                -- Undoes the chunk.
                raise exception using errcode = 'TG001';
            end if;
        exception when others then
            for one in
                select probe.*
                from pg_temp.tidegate_probe probe
                where probe.place >= start and probe.place < start + chunk_rows
                order by probe.place
            loop
                place := one.place;
                begin
                    insert into {schema}.requests (id, trace_id, payload, body, content_type, received_at)
                    values (one.id, convert_from(one.trace_id, 'UTF8'),
                        convert_from(substr(one.payload, 2), 'UTF8')::jsonb, one.body,
                        convert_from(one.content_type, 'UTF8'), one.received_at);
                    get diagnostics stored = row_count;
                    if stored = 0 then
                        state := null;
                        violated := null;
                        message := null;
                        return next;
                    end if;
                exception when others then
                    get stacked diagnostics state = returned_sqlstate, violated = constraint_name,
                        message = message_text, on_table = table_name;
                    if left(state, 2) not in ({row_faults})
                        or state in ({not_row_faults})
                        or state = '23514' and violated = '' and on_table <> ''
                        or state = '23505' and violated like 'requests%\_pkey'
                        or on_table like 'ingest\_%'
                    then
                        raise;
                    end if;
                    return next;
                end;
            end loop;
        end;
        start := start + chunk_rows;
    end loop;
end
$probe$;
