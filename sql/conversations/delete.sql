-- Deletes those of these conversations ($1) that are the owner's ($2), and notifies their subscribers. A trigger that keeps one is an
-- error.
with held as materialized (
    select id from {schema}.conversations where id = any ($1) and owner is not distinct from $2 order by id for update
), deleted as (
    delete from {schema}.conversations c
    using held
    where c.id = held.id
    returning c.id, created_at, updated_at
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || id, id::text, 'delete', created_at,
        greatest(clock_timestamp(), updated_at), '{}'
    from deleted
    returning 1
)
select id from deleted
where (
    select {schema}.expect_rows('conversations', count(*), (select count(*) from deleted))
        and {schema}.expect_rows('changes', count(*), (select count(*) from fed))
    from held
)
