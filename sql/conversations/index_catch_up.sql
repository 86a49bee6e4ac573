-- The next $2 messages and conversations after $1, in the order of their ids, and which of them search does not know. A message that is
-- being written is indexed when it is finished. `next` is null once there are no more.
with next as materialized (
    select id, true as is_message from (select id from {schema}.messages where id > $1 order by id limit $2) as m
    union all
    select id, false from (select id from {schema}.conversations where id > $1 order by id limit $2) as c
    order by id
    limit $2
)
select (select id from next order by id desc limit 1) as next,
    array(
        select id from next
        where not exists (select from {schema}.search_documents d where d.id = next.id)
            and not exists (select from {schema}.message_drafts f where f.message_id = next.id)
    ) as missing
