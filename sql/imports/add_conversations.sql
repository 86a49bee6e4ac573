-- Skips conversations whose ids are taken; the caller sees which are missing. Each leaves its change, as a conversation that is created on
-- its own does.
with given as (
    select id, title, metadata::jsonb as metadata, timestamptz 'epoch' + at_us * interval '1 microsecond' as at
    from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[]) as given (id, title, metadata, at_us)
), added as (
    insert into {schema}.conversations (id, title, created_at, updated_at, metadata, owner)
    select id, title, at, at, metadata, $5 from given
    on conflict (id) do nothing
    returning id, title, created_at, updated_at, metadata
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || id, id::text, 'create', created_at, updated_at,
        jsonb_build_object('title', title, 'metadata', metadata)
    from added
    returning 1
)
select id from added
where (select {schema}.expect_rows('changes', count(*), (select count(*) from fed)) from added)
