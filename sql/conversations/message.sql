-- A message, by its id: a conversation can have any number of them.
select m.id, m.conversation_id, m.role, m.timestamp, m.token_count, m.metadata::text as metadata,
    m.extra::text as extra,
    d.message_id is null as done,
    case when d.message_id is null then m.content else m.content || coalesce(
        (select string_agg(p.content, '' order by p.at) from {schema}.message_pieces p where p.message_id = m.id), ''
    ) end as content
from {schema}.messages m
join {schema}.conversations c on c.id is not distinct from m.conversation_id
left join {schema}.message_drafts d on d.message_id = m.id
where m.id = $3 and c.id = $1 and c.owner is not distinct from $2
