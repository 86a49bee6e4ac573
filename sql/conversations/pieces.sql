-- The beginning of append.sql and finish.sql: the pieces that the request may append, and the state of their messages before.
piece as (
    select piece.*
    from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::text[]) with ordinality
        as piece (conversation_id, owner, message_id, at, content, place)
    where piece.conversation_id = any((select current_setting('tidegate.locked')::uuid[])::uuid[])
), found as (
    select piece.*, m.timestamp, d.length, d.bytes, whole.length as whole
    from piece
    -- By its id: a conversation can have any number of them.
    cross join lateral (
        select m.timestamp from {schema}.messages m
        where m.id = piece.message_id and m.conversation_id is not distinct from piece.conversation_id
        limit 1
    ) as m
    cross join lateral (
        select true from {schema}.conversations c
        where c.id = piece.conversation_id and c.owner is not distinct from piece.owner
        limit 1
    ) as c
    left join lateral (
        select d.length, d.bytes from {schema}.message_drafts d where d.message_id = piece.message_id limit 1
    ) as d on true
    left join lateral (
        select char_length(m.content) as length from {schema}.messages m
        where m.id = piece.message_id and d.length is null
        limit 1
    ) as whole on true
)
