-- Appends pieces to messages that are being written. $1 to $5: each piece's conversation, its required owner, its message, its offset and
-- its text. A piece is appended at its message's end, within $6 bytes in all; no two pieces belong to one message. Returns the state
-- before, and whether the piece was added: a message without a length is not being written, and `whole` is its length. The large row of the
-- message is not touched. The statement begins with pieces.sql.
with {pieces}, grown as (
    update {schema}.message_drafts d
    set length = d.length + char_length(found.content), bytes = d.bytes + octet_length(found.content)
    from found
    -- Twice: with statistics from before the first draft, Postgres would read all drafts for each piece.
    where d.message_id = any(array(select message_id from found))
        and d.message_id = found.message_id and found.length = found.at
        and found.bytes + octet_length(found.content) <= $6
    returning found.place, found.conversation_id, found.message_id, found.at, found.content, found.timestamp
), added as (
    insert into {schema}.message_pieces (message_id, at, content)
    select message_id, at, content from grown where content <> ''
    returning 1
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || conversation_id, message_id::text, 'append', timestamp,
        clock_timestamp(), jsonb_build_object('at', at, 'content', content, 'done', false)
    from (select * from grown where content <> '' order by place) as grown
    returning 1
)
select found.place::integer as place, found.length, found.bytes, found.whole, grown.place is not null as is_added
from found
full join grown on grown.place = found.place
where (
    select {schema}.expect_rows('message_pieces', count(*), (select count(*) from added))
        and {schema}.expect_rows('changes', count(*), (select count(*) from fed))
    from grown
    where content <> ''
)
