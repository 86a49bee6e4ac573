-- Creates conversations. $1 to $4: their ids, titles, metadata and owners.
with added as (
    insert into {schema}.conversations (id, title, created_at, updated_at, metadata, owner)
    select new.id, new.title, now, now, new.metadata, new.owner
    from unnest($1::uuid[], $2::text[], $3::jsonb[], $4::uuid[]) as new (id, title, metadata, owner),
        clock_timestamp() as now
    returning id, title, created_at, updated_at, metadata
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || id, id::text, 'create', created_at, updated_at,
        jsonb_build_object('title', title, 'metadata', metadata)
    from added
    returning 1
)
select id, title, created_at, updated_at, metadata::text as metadata
from added
where (
    select {schema}.expect_rows('conversations', cardinality($1), count(*))
        and {schema}.expect_rows('changes', count(*), (select count(*) from fed))
    from added
)
