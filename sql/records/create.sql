-- Skips records whose ids are taken; the caller sees which are missing. $1 is the topic, $3 the time.
with changed as (
    insert into {table} (id, version, created, updated, data)
    select new.id, nextval('{schema}.change_numbers'), $3, $3, new.data
    from unnest($2::text[], $4::jsonb[]) as new (id, data)
    on conflict (id) do nothing
    returning id, version, created, updated, data
)
