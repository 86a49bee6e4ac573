-- Watched tables: statement triggers on tables of users, which add their changes to the feed (`table/{schema.table}`).
--
-- The functions of a table's triggers are generated: `tidegate_watch_<id>_<kind>`. They run with the rights of this schema's owner, and in
-- the transactions of users. Two rules follow:
-- * No code of users runs with these rights. `to_jsonb` calls casts to json of types that are not built in, and operators and functions are
--   chosen by implicit casts. So the text of such values comes from their output functions, keys are compared as text, and before rows are
--   converted each column's type is compared with that for which the function was generated.
-- * No statement of a user fails because of them. A column may be dropped or renamed, and a value may be too large. What cannot be converted
--   is fed as its key, or as one change `many` with the number of rows.

-- `relation`, `table_schema` and `table_name` are as of the last check. `topic` is that of the feed.
create table {schema}.watched_tables (
    id bigint generated always as identity primary key,
    relation oid not null unique,
    table_schema text collate "C" not null,
    table_name text collate "C" not null,
    topic text collate "C" not null unique deferrable initially deferred,
    at timestamptz not null default now()
);

-- The topic of a table in the feed. A part is in quotes where it has a dot or a quote (src/realtime/table_name.rs).
create function {schema}.tidegate_watch_topic(table_schema text, table_name text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select 'table:' || string_agg(
        case when part ~ '[."]' then '"' || replace(part, '"', '""') || '"' else part end, '.' order by place)
    from unnest(array[table_schema, table_name]) with ordinality as parts(part, place)
$$;
revoke all on function {schema}.tidegate_watch_topic(text, text) from public;

-- A table with its partitions, or with the tables that inherit from it, at any depth.
create function {schema}.tidegate_watch_tree(root oid) returns table (relation oid, relkind "char")
language sql stable set search_path = pg_catalog, pg_temp as $$
    with recursive tree as (
        select root as relation
        union
        select i.inhrelid from pg_inherits i join tree on i.inhparent = tree.relation
    )
    select tree.relation, c.relkind from tree join pg_class c on c.oid = tree.relation
    where c.relkind in ('r', 'p', 'f')
$$;
revoke all on function {schema}.tidegate_watch_tree(oid) from public;

-- Whether a table is below another one. A detached partition keeps its triggers.
create function {schema}.tidegate_watch_is_below(child oid, root oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
    with recursive above as (
        select child as relation
        union
        select i.inhparent from pg_inherits i join above on i.inhrelid = above.relation
    )
    select exists (select from above where relation = root)
$$;
revoke all on function {schema}.tidegate_watch_is_below(oid, oid) from public;

-- Adds a change of a whole table to the feed: `truncate`, or `many` with an action and a number of rows.
create function {schema}.tidegate_watch_feed(topic text, action text, data jsonb) returns void
language sql set search_path = pg_catalog, pg_temp as $$
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    values (nextval('{schema}.change_numbers'), topic, '', action, now(), now() + pg_trigger_depth() * interval '1 microsecond', data)
$$;
revoke all on function {schema}.tidegate_watch_feed(text, text, jsonb) from public;

-- The value of a column of type json. jsonb takes fewer texts: another one becomes a string.
create function {schema}.tidegate_watch_json_value(value json) returns jsonb
language plpgsql immutable strict set search_path = pg_catalog, pg_temp as $$
begin
    return to_jsonb(value);
exception when data_exception or program_limit_exceeded then
    return to_jsonb(value::text);
end
$$;
revoke all on function {schema}.tidegate_watch_json_value(json) from public;

-- The type under a domain.
create function {schema}.tidegate_watch_base(type oid) returns oid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    base oid := type;
    below oid;
begin
    loop
        select typbasetype into below from pg_type where oid = base and typtype = 'd';
        if not found then
            return base;
        end if;
        base := below;
    end loop;
end
$$;
revoke all on function {schema}.tidegate_watch_base(oid) from public;

-- Whether `to_jsonb` of a type fails for no value of a bounded size and calls no function of a user: a type that is built in, but json, and
-- neither an array nor a row.
create function {schema}.tidegate_watch_is_plain(type oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
    select base < 16384 and base <> 'json'::regtype
        and exists (select from pg_type t where t.oid = base and t.typtype in ('b', 'r', 'm') and t.typcategory <> 'A')
    from {schema}.tidegate_watch_base(type) as base
$$;
revoke all on function {schema}.tidegate_watch_is_plain(oid) from public;

-- An SQL expression for the JSON of an expression of a type: of a type that `to_jsonb` takes as it is. Values of types that are not built in
-- are the text of their output functions; rows are objects, up to some depth.
create function {schema}.tidegate_watch_json(expression text, type oid, depth integer) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    base oid := {schema}.tidegate_watch_base(type);
    t pg_type;
    value text := expression;
    element oid;
    attributes text;
begin
    select * into t from pg_type where oid = base;
    if base <> type then
        value := format('(%s)::%s', expression, base::regtype);
    end if;
    select e.oid into element from pg_type e where e.oid = t.typelem and e.typarray = base;
    if found then
        if {schema}.tidegate_watch_is_plain(element) then
            return value;
        end if;
        return format('textin(array_out(%s))::text[]', value);
    elsif base = 'json'::regtype then
        return format('{schema}.tidegate_watch_json_value(%s)', value);
    elsif {schema}.tidegate_watch_is_plain(base) or base < 16384 and t.typtype <> 'c' then
        return value;
    elsif t.typtype = 'e' then
        return format('textin(enum_out(%s))', value);
    elsif t.typtype = 'r' then
        return format('textin(range_out(%s))', value);
    elsif t.typtype = 'm' then
        return format('textin(multirange_out(%s))', value);
    elsif t.typtype = 'c' then
        if depth < 3 then
            select string_agg(format('%s as %I',
                {schema}.tidegate_watch_json(format('(%s).%I', value, attname), atttypid, depth + 1), attname), ', '
                order by attnum)
            into attributes
            from pg_attribute where attrelid = t.typrelid and attnum > 0 and not attisdropped;
        end if;
        if attributes is not null then
            return format('case when num_nulls(%s) = 0 then (select to_jsonb(s%s.*) from (select %s) s%s) end',
                value, depth, attributes, depth);
        end if;
        return format('textin(record_out(%s))', value);
    end if;
    return format('case when %s is not null then format(''%%s'', %s) end', value, value);
end
$$;
revoke all on function {schema}.tidegate_watch_json(text, oid, integer) from public;

-- An SQL condition: an expression still has the type for which `tidegate_watch_json` was called. `pg_typeof` reports the type that the same
-- statement was parsed with.
create function {schema}.tidegate_watch_guard(expression text, type oid, depth integer) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    base oid := {schema}.tidegate_watch_base(type);
    value text := expression;
    guard text := format('pg_typeof(%s)::oid = %s', expression, type);
    attributes text;
begin
    if base <> type then
        value := format('(%s)::%s', expression, base::regtype);
    end if;
    if depth < 3 then
        select string_agg({schema}.tidegate_watch_guard(format('(%s).%I', value, attname), atttypid, depth + 1), ' and ' order by attnum)
        into attributes
        from pg_type t join pg_attribute a on a.attrelid = t.typrelid and attnum > 0 and not attisdropped
        where t.oid = base and t.typtype = 'c';
    end if;
    return guard || coalesce(' and ' || attributes, '');
end
$$;
revoke all on function {schema}.tidegate_watch_guard(text, oid, integer) from public;

-- An SQL expression for the text of a key's column: that of its JSON.
create function {schema}.tidegate_watch_key(expression text, type oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select case
        when type in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype, 'text'::regtype, 'varchar'::regtype)
            then format('%s::text', expression)
        else format('(to_jsonb(%s) #>> ''{}'')', {schema}.tidegate_watch_json(expression, type, 0))
    end
$$;
revoke all on function {schema}.tidegate_watch_key(text, oid) from public;

-- The statements of a table's triggers, as the catalogue is now. `fits`: whether rows can be converted as they are. `compressed`: the
-- stored bytes of a row's values whose length is not known without decompression, at most. `feed` adds the rows to the feed;
-- `feed_small` leaves out rows of more than 64 KiB of such values, which `feed` may be unable to convert.
create function {schema}.tidegate_watch_statements(root oid, topic text)
returns table (kind text, rows_name text, fits text, compressed text, feed text, feed_small text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    columns text;
    guards text;
    -- Bytes of columns of any length: of those whose length is known, and of the others as they are stored.
    lengths text;
    stored text;
    key_columns text[];
    key_of_row text := 'null::text';
    record_of_key text := '''''';
    keys_of_key text := 'null::text[]';
    may_be_empty boolean;
    within text;
    rows_head text;
    rows_tail text;
    bounded text := 'case when pg_column_size(%1$s) <= 131072 or octet_length(%1$s::text) <= 1048576 then %1$s end';
    head text := 'insert into {schema}.changes (number, topic, record, keys, action, created, updated, data, old) ';
    -- `updated` counts, in microseconds behind `created`, the triggers that the statement runs in: see tidegate_watch_source.
    times text := 'now(), now() + pg_trigger_depth() * interval ''1 microsecond''';
    variant boolean;
    texts text[] := '{}';
begin
    select string_agg(format('%s as %I', {schema}.tidegate_watch_json(value, atttypid, 0), attname), ', ' order by attnum),
        string_agg({schema}.tidegate_watch_guard(value, atttypid, 0), ' and ' order by attnum),
        string_agg(case
            when base in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
                then format('coalesce(octet_length((%s)::text), 0)', value)
            when base = 'bytea'::regtype then format('coalesce(2 * octet_length((%s)::bytea), 0)', value)
        end, ' + ' order by attnum) filter (where typlen = -1 and not (base = 'varchar'::regtype and atttypmod between 0 and 10000)),
        string_agg(format('coalesce(pg_column_size(%s), 0)', value), ' + ' order by attnum)
            filter (where typlen = -1
                and base not in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype, 'numeric'::regtype))
    into columns, guards, lengths, stored
    from (
        select attnum, attname, atttypid, atttypmod, format('r.%I', attname) as value, {schema}.tidegate_watch_base(atttypid) as base
        from pg_attribute where attrelid = root and attnum > 0 and not attisdropped
    ) a join pg_type t on t.oid = a.base;
    if columns is null then
        return;
    end if;

    -- A deferrable key may be doubled at the end of a statement.
    select array_agg({schema}.tidegate_watch_key(format('r.%I', a.attname), a.atttypid) order by place),
        bool_or({schema}.tidegate_watch_base(a.atttypid) not in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype))
    into key_columns, may_be_empty
    from pg_index i
    cross join unnest(i.indkey::int2[]) with ordinality as k(number, place)
    join pg_attribute a on a.attrelid = root and a.attnum = k.number
    where i.indrelid = root and i.indisprimary and i.indimmediate and i.indisvalid and place <= i.indnkeyatts;
    if cardinality(key_columns) = 1 then
        key_of_row := key_columns[1] || ' collate "C"';
        record_of_key := 'k';
        if may_be_empty then
            keys_of_key := 'case when k = '''' then array[k] end';
        end if;
    elsif key_columns is not null then
        key_of_row := format('array[%s] collate "C"', array_to_string(key_columns, ', '));
        keys_of_key := 'k';
    end if;

    foreach kind in array array['insert', 'update', 'delete'] loop
        rows_name := case kind when 'delete' then 'old_rows' else 'new_rows' end;
        fits := format('(select %s from %s r limit 1) and has_column_privilege(%s::oid, %s::smallint, ''select'') is null', guards, rows_name,
            root, (select max(attnum) + 1 from pg_attribute where attrelid = root));
        if kind = 'update' and key_columns is not null then
            fits := fits || ' and (select count(*) from old_rows) = (select count(*) from new_rows)';
        end if;
        compressed := coalesce('(select max(' || stored || ') from ' || rows_name || ' r)', '0');
        texts := '{}';
        foreach variant in array array[false, true] loop
            within := concat_ws(' and ', nullif(concat_ws(' + ', lengths, stored), '') || ' <= 1048576',
                case when variant then stored || ' <= 65536' end);
            -- Joined, as names may hold a percent sign.
            rows_head := '(select ' || key_of_row || ' as k, '
                || case when within = '' then 'to_jsonb(s.*)' else 'case when ' || within || ' then to_jsonb(s.*) end' end
                || ' as data from ';
            rows_tail := ' r cross join lateral (select ' || columns || ') s offset 0)';
            if kind <> 'update' or key_columns is null then
                texts := texts || (head || format(
                    'select nextval(''{schema}.change_numbers''), %L, %s, %s, %L, %s, coalesce(%s, ''null''), null from %s q',
                    topic, record_of_key, keys_of_key, case kind when 'insert' then 'create' else kind end, times,
                    format(bounded, 'q.data'), rows_head || rows_name || rows_tail));
            else
                -- A row's old and new state are at the same place, and a row may be there several times (foreign keys write in the
                -- statement of the row that they refer to). Another key is a deletion and a creation.
                texts := texts || (format(
                    'with pairs as materialized (select n.i, o.k as was, n.k, o.data as old, n.data from '
                    || '(select row_number() over () as i, q.* from %s q) o join (select row_number() over () as i, q.* from %s q) n on n.i = o.i) '
                    || head || 'select nextval(''{schema}.change_numbers''), %L, %s, %s, action, %s, coalesce(%s, ''null''), %s from ('
                    || 'select was as k, ''delete'' as action, old as data, null::jsonb as old from pairs where was <> k '
                    || 'union all (select k, case when was = k then ''update'' else ''create'' end, data, case when was = k then old end '
                    || 'from pairs order by i) offset 0) q',
                    rows_head || 'old_rows' || rows_tail, rows_head || 'new_rows' || rows_tail,
                    topic, record_of_key, keys_of_key, times, format(bounded, 'q.data'), format(bounded, 'q.old')));
            end if;
        end loop;
        feed := texts[1];
        feed_small := texts[2];
        return next;
    end loop;
end
$$;
revoke all on function {schema}.tidegate_watch_statements(oid, text) from public;

-- The source of a trigger's function: that for rows, from the statements above, and that for `truncate`. `root` is the watched table,
-- and `reorders` whether its rows have triggers that may change it again: their statements end first, and are fed first. So the changes
-- of such statements get numbers behind those of the rows.
create function {schema}.tidegate_watch_source(
    root oid, topic text, kind text, rows_name text, fits text, compressed text, feed text, feed_small text, reorders boolean
) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    is_here text := format(
        '(tg_relid = %1$s or pg_partition_root(tg_relid)::oid = %1$s or {schema}.tidegate_watch_is_below(tg_relid, %1$s))', root);
    own text := format('c.xid = pg_current_xact_id() and c.topic = %L', topic);
    depth text := '(extract(microseconds from c.updated - c.created))';
begin
    if kind = 'truncate' then
        -- Partitions are truncated with their table, and their triggers fire too.
        return format('
declare
    watch_last text;
begin
    if %1$s is not true then
        return null;
    end if;
    select case when c.action = ''many'' then c.data ->> ''action'' else c.action end into watch_last
    from {schema}.changes c where %2$s order by c.number desc limit 1;
    if tg_relid = %3$s and (
        pg_partition_root(tg_relid) is not null or not exists (select from pg_inherits where inhparent = %3$s)
    ) then
        perform {schema}.tidegate_watch_feed(%4$L, ''truncate'', ''null'');
    elsif watch_last is distinct from ''truncate'' then
        perform {schema}.tidegate_watch_feed(%4$L, ''many'', ''{"action": "truncate"}'');
    end if;
    return null;
end', is_here, own, root, topic);
    end if;
    -- The texts that hold names of users are arguments, which `format` does not read.
    return format('
#variable_conflict use_column
declare
    watch_rows bigint;
    watch_fits boolean;
    watch_compressed bigint;
    watch_now record;
    watch_behind bigint[];
begin
    if %1$s is not true then
        return null;
    end if;
    begin
        select c.n, case when c.n between 1 and 10000 then %5$s end, case when c.n between 1 and 10000 then %6$s end
        into watch_rows, watch_fits, watch_compressed
        from (select count(*) as n from %4$s offset 0) c;
    exception when syntax_error_or_access_rule_violation then
        -- A column is gone.
        select count(*) into watch_rows from %4$s;
        watch_fits := false;
    end;
    if watch_rows = 0 then
        return null;
    end if;
%9$s    if watch_rows > 10000 then
        perform {schema}.tidegate_watch_feed(%3$L, ''many'', jsonb_build_object(''action'', %2$L::text, ''rows'', watch_rows));
    elsif watch_fits and watch_compressed <= 65536 then
        %7$s;
    elsif watch_fits then
        begin
            %7$s;
        exception when data_exception or program_limit_exceeded or out_of_memory or internal_error then
            %8$s;
        end;
    else
        -- The table was altered since the function was generated.
        begin
            select s.* into watch_now from {schema}.tidegate_watch_statements(%11$s, %3$L) s where s.kind = %2$L;
            execute ''select '' || watch_now.fits || '', '' || watch_now.compressed into watch_fits, watch_compressed;
            if watch_fits then
                execute case when watch_compressed <= 65536 then watch_now.feed else watch_now.feed_small end;
            end if;
        exception when syntax_error_or_access_rule_violation or data_exception or program_limit_exceeded or out_of_memory or internal_error then
            watch_fits := false;
        end;
        if watch_fits is not true then
            perform {schema}.tidegate_watch_feed(%3$L, ''many'', jsonb_build_object(''action'', %2$L::text, ''rows'', watch_rows));
        end if;
    end if;
%10$s    return null;
end', is_here, kind, topic, rows_name, fits, compressed, feed, feed_small,
        case when reorders then format('    select array_agg(c.number) into watch_behind
    from {schema}.changes c
    where %1$s and %2$s > pg_trigger_depth() and c.number > coalesce((
        select max(c.number) from {schema}.changes c where %1$s and %2$s <= pg_trigger_depth()), 0);
', own, depth) else '' end,
        case when reorders then '    if watch_behind is not null then
        update {schema}.changes c set number = moved.number, updated = c.created + pg_trigger_depth() * interval ''1 microsecond''
        from (
            select o.was, nextval(''{schema}.change_numbers'') as number
            from (select was from unnest(watch_behind) was order by was offset 0) o
            offset 0
        ) moved
        where c.xid = pg_current_xact_id() and c.number = moved.was;
    end if;
' else '' end, root);
end
$$;
revoke all on function {schema}.tidegate_watch_source(oid, text, text, text, text, text, text, text, boolean) from public;

-- The parameters that the texts of a table's values depend on, as a function's settings. They cost as much as a small statement, so only the
-- types that need them have them. An update pairs two sets of rows: a plan made for one row must not be a nested loop for thousands, nor one
-- made for thousands be compiled for each row.
create function {schema}.tidegate_watch_settings(root oid, kind text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select concat_ws(' ',
        'set search_path = pg_catalog, pg_temp',
        case when kind = 'update' then 'set enable_nestloop = off set jit = off' end,
        case when bool_or(base <> all(plain)) then 'set timezone = ''UTC''' end,
        case when bool_or(base <> all(plain) and base <> 'timestamptz'::regtype) then
            'set datestyle = ''ISO, YMD'' set intervalstyle = ''postgres'' set extra_float_digits = 1 set bytea_output = ''hex'' '
            || 'set array_nulls = on set lc_monetary = ''C'' set xmloption = ''content'''
        end)
    from pg_attribute a
    cross join {schema}.tidegate_watch_base(atttypid) as base
    cross join (
        select array['bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype, 'text'::regtype,
            'varchar'::regtype, 'bpchar'::regtype, 'uuid'::regtype, 'json'::regtype, 'jsonb'::regtype, 'name'::regtype, 'date'::regtype,
            'timestamp'::regtype, 'text[]'::regtype, 'int4[]'::regtype, 'int8[]'::regtype, 'uuid[]'::regtype]::oid[] as plain
    ) known
    where attrelid = root and attnum > 0 and not attisdropped
$$;
revoke all on function {schema}.tidegate_watch_settings(oid, text) from public;

-- Makes the functions and triggers of a watched table what they have to be. Returns whether a table that has rows got triggers: earlier
-- changes of these may be missing. `is_patient` controls whether a table whose lock is not free is left for the next time.
create function {schema}.tidegate_watch_apply(watch {schema}.watched_tables, is_patient boolean) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    statement record;
    part record;
    kind text;
    name text;
    source text;
    settings text;
    missed boolean := false;
    locked integer := 0;
    reorders boolean := exists (
        select from {schema}.tidegate_watch_tree(watch.relation) tree
        join pg_trigger t on t.tgrelid = tree.relation
        join pg_proc f on f.oid = t.tgfoid
        -- For each row, after it; of foreign keys those that write.
        where t.tgtype & 1 = 1 and t.tgtype & 2 = 0
            and (not t.tgisinternal or f.proname ~ '^RI_FKey_(cascade|setnull|setdefault)_(del|upd)$')
    );
begin
    for statement in
        select * from {schema}.tidegate_watch_statements(watch.relation, watch.topic)
        union all select 'truncate', null, null, null, null, null
    loop
        name := format('tidegate_watch_%s_%s', watch.id, statement.kind);
        settings := {schema}.tidegate_watch_settings(watch.relation, statement.kind);
        -- The settings in front, so that another one is another source.
        source := '-- ' || settings || {schema}.tidegate_watch_source(watch.relation, watch.topic, statement.kind, statement.rows_name,
            statement.fits, statement.compressed, statement.feed, statement.feed_small, reorders);
        if not exists (
            select from pg_proc f where f.oid = to_regprocedure('{schema}.' || name || '()') and f.prosrc = source
        ) then
            execute format('create or replace function {schema}.%I() returns trigger language plpgsql security definer %s as %L',
                name, settings, source);
            execute format('revoke all on function {schema}.%I() from public', name);
        end if;
    end loop;
    -- A table without columns has no statements for rows.
    for part in
        select n.nspname, c.relname, c.oid
        from {schema}.tidegate_watch_tree(watch.relation) tree
        join pg_class c on c.oid = tree.relation and c.relkind in ('r', 'p')
        join pg_namespace n on n.oid = c.relnamespace
        order by c.oid
    loop
        begin
            foreach kind in array array['insert', 'update', 'delete', 'truncate'] loop
                name := format('tidegate_watch_%s_%s', watch.id, kind);
                if to_regprocedure('{schema}.' || name || '()') is not null and not exists (
                    select from pg_trigger t where t.tgrelid = part.oid and t.tgfoid = to_regprocedure('{schema}.' || name || '()')
                ) then
                    -- Before other triggers of the statement, which may change the table again.
                    execute format('create trigger %I after %s on %I.%I %s for each statement execute function {schema}.%I()',
                        format('00_tidegate_%s_%s', watch.id, kind), kind, part.nspname, part.relname,
                        case kind when 'insert' then 'referencing new table as new_rows'
                            when 'update' then 'referencing old table as old_rows new table as new_rows'
                            when 'delete' then 'referencing old table as old_rows' else '' end, name);
                    -- Behind the lock that creating a trigger takes.
                    missed := missed or pg_relation_size(part.oid) > 0;
                end if;
            end loop;
        exception when lock_not_available then
            locked := locked + 1;
            if not is_patient or locked > 5 then
                raise;
            end if;
        end;
    end loop;
    return missed;
end
$$;
revoke all on function {schema}.tidegate_watch_apply({schema}.watched_tables, boolean) from public;

-- Removes the functions of a watched table, and with them its triggers: only a table's owner could drop these.
create function {schema}.tidegate_watch_remove(id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp set client_min_messages = warning as $$
declare
    kind text;
begin
    foreach kind in array array['insert', 'update', 'delete', 'truncate'] loop
        execute format('drop function if exists {schema}.%I() cascade', format('tidegate_watch_%s_%s', id, kind));
    end loop;
end
$$;
revoke all on function {schema}.tidegate_watch_remove(bigint) from public;

-- Ends the watch of a table. Its subscribers get a change `many` with the reason.
create function {schema}.tidegate_watch_forget(watch {schema}.watched_tables, reason text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform {schema}.tidegate_watch_remove(watch.id);
    delete from {schema}.watched_tables w where w.id = watch.id;
    perform {schema}.tidegate_watch_feed(watch.topic, 'many', jsonb_build_object('action', reason));
end
$$;
revoke all on function {schema}.tidegate_watch_forget({schema}.watched_tables, text) from public;

-- Raises an error unless the caller may add triggers to a table, and this schema's owner too. With `watch` the latter.
create function {schema}.tidegate_watch_check_rights(root oid, caller text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    missing text;
begin
    if not has_table_privilege(caller, root, 'trigger') then
        raise exception 'the role % may not add triggers to %', caller, root::regclass
            using errcode = 'insufficient_privilege', hint = format('grant trigger on %s to %I', root::regclass, caller);
    end if;
    select string_agg(grants.text, '; ' order by grants.text desc) into missing
    from (
        select distinct format('grant usage on schema %I to %I', n.nspname, current_user)
        from {schema}.tidegate_watch_tree(root) tree
        join pg_class c on c.oid = tree.relation
        join pg_namespace n on n.oid = c.relnamespace
        where not has_schema_privilege(n.oid, 'usage')
        union all
        select format('grant trigger on %I.%I to %I', n.nspname, c.relname, current_user)
        from {schema}.tidegate_watch_tree(root) tree
        join pg_class c on c.oid = tree.relation
        join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p') and not has_table_privilege(c.oid, 'trigger')
    ) as grants(text);
    if missing is not null then
        raise exception 'the role % of the service may not add triggers to %: %', current_user, root::regclass, missing
            using errcode = 'insufficient_privilege', hint = missing;
    end if;
end
$$;
revoke all on function {schema}.tidegate_watch_check_rights(oid, text) from public;

-- The role that calls a function which runs as its owner: that of `set role`, else the user of the session.
create function {schema}.tidegate_watch_caller() returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select case current_setting('role') when 'none' then session_user::text else current_setting('role') end
$$;
revoke all on function {schema}.tidegate_watch_caller() from public;

-- Feeds the changes of a table from now on to the subscribers of `table/{schema.table}`. Returns a description, with what is not fed.
create function {schema}.tidegate_watch(relation regclass) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '5s' set quote_all_identifiers = off as $$
declare
    own_tables text[] := regexp_split_to_array(
        'api_keys, auth_revocations, auth_tickets, changes, collections, conversations, dead_letters, feed_floor, feed_positions,
        feed_readers, file_store, files, import_parts, import_rejected, imports, ingest_duplicates, ingest_journals,
        ingest_keys, ingest_lanes, ingest_partitions, ingest_receipts, ingest_removed, large_payload_parts,
        large_payloads, message_drafts, message_keys, message_pieces, messages, requests, search_documents,
        search_rebuild, sessions, tidegate_choices, tidegate_migrations, tidegate_table_sets, users, watched_tables', '[,[:space:]]+');
    watched record;
    watch {schema}.watched_tables;
    parent oid;
    notes text[];
    key_names text;
begin
    select c.oid, c.relname, c.relnamespace, c.relkind, c.relpersistence, c.relrowsecurity, n.nspname into watched
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = tidegate_watch.relation;
    if not found then
        raise exception 'tidegate_watch: there is no such table' using errcode = 'undefined_table';
    elsif watched.relkind not in ('r', 'p') or watched.relpersistence = 't' or watched.nspname ~ '^pg_' or watched.nspname = 'information_schema' then
        raise exception 'tidegate_watch: % is no table that can be watched: views, foreign, temporary and system tables cannot', relation
            using errcode = 'wrong_object_type';
    elsif watched.relnamespace = to_regnamespace('{schema}')
        and (watched.relname = any(own_tables) or watched.relname ~ '^(requests_p[0-9]{8}|records_[0-9]+)$') then
        raise exception 'tidegate_watch: % is a table of the service', relation using errcode = 'wrong_object_type';
    end if;
    perform {schema}.tidegate_watch_check_rights(relation, {schema}.tidegate_watch_caller());
    select inhparent into parent from pg_inherits where inhrelid = relation order by inhseqno limit 1;
    if found then
        raise exception 'tidegate_watch: % is a part of %, and statements through that one would not be seen: watch that one',
            relation, parent::regclass using errcode = 'wrong_object_type';
    end if;
    lock table {schema}.watched_tables in share row exclusive mode;
    select * into watch from {schema}.watched_tables w where w.relation = watched.oid;
    if not found then
        -- A table of that name that is gone, if the service has not noticed.
        perform {schema}.tidegate_watch_forget(w, 'drop') from {schema}.watched_tables w
        where (w.table_schema, w.table_name) = (watched.nspname, watched.relname);
        insert into {schema}.watched_tables (relation, table_schema, table_name, topic)
        values (watched.oid, watched.nspname, watched.relname, {schema}.tidegate_watch_topic(watched.nspname, watched.relname))
        returning * into watch;
        perform {schema}.tidegate_watch_apply(watch, false);
        perform {schema}.tidegate_watch_feed(watch.topic, 'many', '{"action": "watch"}');
    elsif {schema}.tidegate_watch_apply(watch, false) then
        perform {schema}.tidegate_watch_feed(watch.topic, 'many', '{"action": "watch"}');
    end if;

    select string_agg(quote_ident(a.attname), ', ' order by place) into key_names
    from pg_index i
    cross join unnest(i.indkey::int2[]) with ordinality as k(number, place)
    join pg_attribute a on a.attrelid = watched.oid and a.attnum = k.number
    where i.indrelid = watched.oid and i.indisprimary and i.indimmediate and i.indisvalid and place <= i.indnkeyatts;
    notes := array[
        format('%s is fed to table/%s, with the key %s.', relation, substr(watch.topic, 7), coalesce(key_names, 'null')),
        case when key_names is null then 'Without a primary key that is not deferrable, changes have no key, and updates no previous state.' end,
        case when watched.relpersistence = 'u' then 'A crash of Postgres empties the table, which is not seen.' end,
        'Not seen: statements with session_replication_role = replica, and that the table is dropped, until the service checks.',
        case when exists (
            select from pg_subscription_rel s join {schema}.tidegate_watch_tree(watched.oid) tree on tree.relation = s.srrelid
        ) then 'Not seen: rows that logical replication applies.' end,
        case when watched.relkind = 'p' or exists (select from pg_inherits i where i.inhparent = watched.oid) then
            'Not seen: that a partition or an inheriting table is attached, detached or dropped with its rows. New ones are watched once the service has found them.'
        end,
        case when exists (select from {schema}.tidegate_watch_tree(watched.oid) tree where tree.relkind = 'f') then
            'Not seen: statements on the parts that are foreign tables.' end,
        case when exists (
            select from {schema}.tidegate_watch_tree(watched.oid) tree join pg_inherits i on i.inhrelid = tree.relation
            group by i.inhrelid having count(*) > 1
        ) then 'Not seen: statements on other tables from which its parts inherit too.' end,
        case when watched.relrowsecurity then
            'Row-level security does not reach subscribers: who has realtime:read gets every row.' end
    ];
    return array_to_string(notes, ' ');
end
$$;
revoke all on function {schema}.tidegate_watch(regclass) from public;

-- Ends what `tidegate_watch` began. The role that calls it needs the same rights.
create function {schema}.tidegate_unwatch(relation regclass) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '5s' set quote_all_identifiers = off as $$
declare
    caller text := {schema}.tidegate_watch_caller();
    watch {schema}.watched_tables;
begin
    if not coalesce(has_table_privilege(caller, relation, 'trigger'), false) then
        raise exception 'the role % may not add triggers to %', caller, relation
            using errcode = 'insufficient_privilege', hint = format('grant trigger on %s to %I', relation, caller);
    end if;
    lock table {schema}.watched_tables in share row exclusive mode;
    select * into watch from {schema}.watched_tables w where w.relation = tidegate_unwatch.relation;
    if not found then
        return format('%s is not watched.', relation);
    end if;
    perform {schema}.tidegate_watch_forget(watch, 'unwatch');
    return format('%s is no longer watched.', relation);
end
$$;
revoke all on function {schema}.tidegate_unwatch(regclass) from public;

-- Follows what happened to a watched table since: new partitions and inheriting tables, other columns, keys and names, the end of the table,
-- triggers that are gone, a restored database. Returns what was done and what could not be. Waits for no lock for long: statements of users
-- would wait behind it.
create function {schema}.tidegate_watch_check(id bigint) returns table (message text, is_failure boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' set quote_all_identifiers = off as $$
declare
    watch {schema}.watched_tables;
    topic_before text;
    now_at record;
    parent oid;
begin
    lock table {schema}.watched_tables in share row exclusive mode;
    select * into watch from {schema}.watched_tables w where w.id = tidegate_watch_check.id;
    if not found then
        return;
    end if;
    -- A table is known by its triggers: in a restored database another one may have its number. Else it is known by its name.
    select c.oid, n.nspname, c.relname into now_at
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and (
        c.oid = watch.relation and exists (
            select from pg_trigger t join pg_proc f on f.oid = t.tgfoid
            where t.tgrelid = c.oid and f.pronamespace = to_regnamespace('{schema}')
                and f.proname = format('tidegate_watch_%s_truncate', watch.id)
        ) or (n.nspname, c.relname) = (watch.table_schema, watch.table_name)
    )
    order by c.oid = watch.relation desc limit 1;
    if not found then
        perform {schema}.tidegate_watch_forget(watch, 'drop');
        return query select format('%s is gone, and no longer watched', watch.topic), false;
        return;
    end if;
    if (now_at.oid, now_at.nspname, now_at.relname) is distinct from (watch.relation, watch.table_schema, watch.table_name) then
        topic_before := watch.topic;
        update {schema}.watched_tables w
        set relation = now_at.oid, table_schema = now_at.nspname, table_name = now_at.relname,
            topic = {schema}.tidegate_watch_topic(now_at.nspname, now_at.relname)
        where w.id = watch.id
        returning * into watch;
        if watch.topic <> topic_before then
            perform {schema}.tidegate_watch_feed(topic_before, 'many', '{"action": "rename"}');
            perform {schema}.tidegate_watch_feed(watch.topic, 'many', '{"action": "watch"}');
            return query select format('%s was renamed, and is %s', topic_before, watch.topic), false;
        end if;
    end if;
    if {schema}.tidegate_watch_apply(watch, true) then
        perform {schema}.tidegate_watch_feed(watch.topic, 'many', '{"action": "watch"}');
        return query select format('%s: a part of the table that has rows is watched from now on', watch.topic), false;
    end if;
    select inhparent into parent from pg_inherits where inhrelid = watch.relation order by inhseqno limit 1;
    if found then
        return query select format('%s became a part of %s: statements through that one are not seen', watch.topic, parent::regclass), true;
    end if;
end
$$;
revoke all on function {schema}.tidegate_watch_check(bigint) from public;
