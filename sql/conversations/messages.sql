-- Pages of conversations' messages, nearest first, for several requests. $1 to $5: each one's conversation, its required owner, its cursor
-- and its limit. `found` counts up to the limit, which is one more than the page has, so it reports whether there are more. A page ends
-- before it exceeds $6 bytes; if $7, after it exceeds them. Its first row is always returned, if without its content, and reports whether
-- it `fits`. {beyond} and {direction} are fixed words. No row: no such conversation; a row without an id: no message.
select asked.place::integer as place, pg_current_snapshot()::text as snapshot, page.*
from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::uuid[], $5::bigint[]) with ordinality
    as asked (conversation_id, owner, at, id, most, place)
cross join lateral (
    select c.id from {schema}.conversations c
    where c.id = asked.conversation_id and c.owner is not distinct from asked.owner
    limit 1
) as c
left join lateral (
    with page as (
        select m.*, d.bytes is null as done,
            coalesce(d.bytes, octet_length(m.content)) + octet_length(m.metadata::text)
                + coalesce(octet_length(m.extra::text), 0) as bytes
        from {schema}.messages m
        left join lateral (
            select d.bytes from {schema}.message_drafts d where d.message_id = m.id limit 1
        ) as d on true
        where m.conversation_id = c.id and (m.timestamp, m.id) {beyond} (asked.at, asked.id)
        order by m.timestamp {direction}, m.id {direction}
        limit asked.most
    ), sized as (
        select page.*, count(*) over () as found, row_number() over nearest as nth,
            sum(page.bytes) over nearest - case when $7 then page.bytes else 0 end <= $6 as fits
        from page
        window nearest as (order by page.timestamp {direction}, page.id {direction})
    )
    select id, conversation_id, role, sized.timestamp, token_count, metadata::text as metadata, done,
        case when fits then extra::text end as extra,
        case when not fits then null when done then content else content || coalesce(
            (select string_agg(p.content, '' order by p.at) from {schema}.message_pieces p where p.message_id = sized.id), ''
        ) end as content,
        found, fits
    from sized
    where fits or nth = 1
) as page on true
order by asked.place, page.timestamp {direction}, page.id {direction}
