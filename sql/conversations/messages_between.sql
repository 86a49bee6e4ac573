-- The messages that an import added to a conversation: ids from $2 to $3, after $4, in the order of their ids. They are found by id, and
-- their conversation is compared afterwards: the conversation's own index would read all of it.
with page as (
    select m.*, octet_length(m.content) + octet_length(m.metadata::text) + coalesce(octet_length(m.extra::text), 0) as bytes
    from {schema}.messages m
    where m.conversation_id is not distinct from $1 and m.id between $2 and $3 and m.id > $4
    order by m.id
    limit $5
), sized as (
    select *, count(*) over () as found, sum(bytes) over (order by id) as sum from page
)
select id, conversation_id, role, content, sized.timestamp, token_count, metadata::text as metadata, true as done,
    extra::text as extra, found
from sized
where sum - bytes <= $6
order by id
