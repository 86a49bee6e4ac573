-- Conversations that got messages, and for each one change for all of the part's messages: those of the conversation with ids between
-- `first` and `last`, `count` of them or fewer. At the end of the transaction, as other writers of the conversation wait.
with given as (
    select id, timestamptz 'epoch' + newest_us * interval '1 microsecond' as newest, first, last, count
    from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::uuid[], $5::bigint[])
        as given (id, newest_us, first, last, count)
), held as (
    select id from {schema}.conversations where id = any($1) order by id for no key update
), touched as (
    update {schema}.conversations
    set updated_at = greatest(updated_at, newest)
    from held join given using (id)
    where conversations.id = held.id
    returning conversations.id, created_at, conversations.updated_at, first, last, count
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || id, first, 'import', created_at, updated_at,
        jsonb_build_object('first', first, 'last', last, 'count', count)
    from touched
    returning 1
)
select {schema}.expect_rows('conversations', count(*), (select count(*) from touched))
    and {schema}.expect_rows('changes', count(*), (select count(*) from fed))
from held
