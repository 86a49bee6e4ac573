with added as (
    insert into {schema}.conversations (id, title, created_at, updated_at, metadata, owner)
    select $1::uuid, $2::text, now, now, $3::jsonb, $4::uuid from clock_timestamp() as now
    returning id, title, created_at, updated_at, metadata
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || id, id::text, 'create', created_at, updated_at,
        jsonb_build_object('title', title, 'metadata', metadata)
    from added
)
select id, title, created_at, updated_at, metadata::text as metadata from added
