-- What is null stays as it is.
with changed as (
    update {schema}.conversations
    set title = coalesce($3, title),
        metadata = coalesce($4, metadata),
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    where id = $1 and owner is not distinct from $2
    returning id, title, created_at, updated_at, metadata
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || id, id::text, 'update', created_at, updated_at,
        jsonb_build_object('title', title, 'metadata', metadata)
    from changed
)
select id, title, created_at, updated_at, metadata::text as metadata from changed
