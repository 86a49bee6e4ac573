-- A page of a conversation's messages from the place ($3, $4) on, nearest first, up to the message that passes $6 bytes.
-- `found` counts up to one more than the page has ($5), which tells whether there are more. {beyond} and {direction} are
-- our own words. No row: no such conversation; a row without an id: no message.
select pg_current_snapshot()::text as snapshot, page.*
from {schema}.conversations c
left join lateral (
    with page as (
        select m.*, d.message_id is null as done,
            coalesce(d.bytes, octet_length(m.content)) + octet_length(m.metadata::text) as bytes
        from {schema}.messages m
        left join {schema}.message_drafts d on d.message_id = m.id
        where m.conversation_id = c.id and (m.timestamp, m.id) {beyond} ($3, $4)
        order by m.timestamp {direction}, m.id {direction}
        limit $5
    ), sized as (
        select page.*, count(*) over () as found,
            sum(page.bytes) over (order by page.timestamp {direction}, page.id {direction}) as sum
        from page
    )
    select id, conversation_id, role, sized.timestamp, token_count, metadata::text as metadata, done,
        case when done then content else content || coalesce(
            (select string_agg(p.content, '' order by p.at) from {schema}.message_pieces p where p.message_id = sized.id), ''
        ) end as content,
        found
    from sized
    where sum - bytes <= $6
) as page on true
where c.id = $1 and c.owner is not distinct from $2
order by page.timestamp {direction}, page.id {direction}
