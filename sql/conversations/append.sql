-- Adds a piece ($5) to a message ($3) that is being written, at its end ($4), within $6 bytes in all. What was there before,
-- and whether the piece was added: a message without a length is not being written. The large row of the message is left alone.
with found as (
    select m.id, m.timestamp, d.length, d.bytes
    from {schema}.messages m
    join {schema}.conversations c on c.id = m.conversation_id
    left join {schema}.message_drafts d on d.message_id = m.id
    where m.id = $3 and c.id = $1 and c.owner is not distinct from $2
), grown as (
    update {schema}.message_drafts d
    set length = d.length + char_length($5), bytes = d.bytes + octet_length($5)
    from found
    where d.message_id = found.id and found.length = $4 and found.bytes + octet_length($5) <= $6
    returning d.message_id as id, found.timestamp
), piece as (
    insert into {schema}.message_pieces (message_id, at, content) select id, $4, $5 from grown where $5 <> ''
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || $1::uuid, id::text, 'append', grown.timestamp,
        clock_timestamp(), jsonb_build_object('at', $4, 'content', $5, 'done', false)
    from grown
    where $5 <> ''
)
select length, bytes, exists (select from grown) as is_added from found
