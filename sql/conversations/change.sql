-- A null value leaves its column unchanged. A trigger that drops the change is an error, not a missing conversation.
with held as materialized (
    select id from {schema}.conversations where id = $1 and owner is not distinct from $2 for no key update
), changed as (
    update {schema}.conversations c
    set title = coalesce($3, title),
        metadata = coalesce($4, metadata),
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    from held
    where c.id = held.id
    returning c.id, title, created_at, updated_at, metadata
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || id, id::text, 'update', created_at, updated_at,
        jsonb_build_object('title', title, 'metadata', metadata)
    from changed
    returning 1
)
select id, title, created_at, updated_at, metadata::text as metadata
from changed
where (
    select {schema}.expect_rows('conversations', count(*), (select count(*) from changed))
        and {schema}.expect_rows('changes', count(*), (select count(*) from fed))
    from held
)
