-- Deletes those of the conversations $1 that belong to the owner $2, and notifies their subscribers. A trigger that keeps one is an
-- error. A rehearsal ($3) always ends with an error, of the table 'rehearsal' if all would be deleted: after the triggers that could keep a
-- row, and before the messages are deleted with their conversations.
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
        and {schema}.expect_rows('rehearsal', case when $3 then count(*) + 1 else 0 end, 0)
    from held
)
