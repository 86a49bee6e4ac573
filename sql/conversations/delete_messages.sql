-- A batch of what the conversations $1 hold: up to $3 each of their messages, search documents and keys. Millions are deleted by many
-- short statements instead of a long one. `most` is the largest of the three counts: at the limit there may be more. Documents are locked
-- in the order of their ids, as the indexer does.
with mine as (
    select id from {schema}.conversations where id = any ($1) and owner is not distinct from $2
), messages as (
    delete from {schema}.messages
    where id in (select m.id from {schema}.messages m join mine on mine.id = m.conversation_id limit $3)
    returning 1
), batch as (
    select d.id from {schema}.search_documents d join mine on mine.id = d.conversation_id limit $3
), locked as (
    select id from {schema}.search_documents where id in (select id from batch) order by id for update
), documents as (
    delete from {schema}.search_documents where id in (select id from locked) returning 1
), keys as (
    delete from {schema}.message_keys
    where (conversation_id, key) in (
        select k.conversation_id, k.key from {schema}.message_keys k join mine on mine.id = k.conversation_id limit $3
    )
    returning 1
)
select counted.messages, greatest(counted.messages, counted.documents, counted.keys) as most
from (
    select (select count(*) from messages) as messages, (select count(*) from documents) as documents,
        (select count(*) from keys) as keys
) as counted
