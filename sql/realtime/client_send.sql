-- Sends the request $1 with the body $5 to the connection $3 of the node $2, for the node $4, and wakes that node by a change. Up to $6 messages
-- wait for a node. Deletes more unread messages than it adds: so their number is bounded.
with old as (
    delete from {schema}.client_messages
    where number in (
        select number from {schema}.client_messages where at < now() - interval '1 minute'
        order by number limit 10 for update skip locked
    )
), target as materialized (
    select from {schema}.client_nodes where node = $2 and seen > now() - interval '2 minutes'
), waiting as materialized (
    select count(*) as count from (select from {schema}.client_messages where node = $2 limit $6) as waiting
), sent as (
    insert into {schema}.client_messages (request, node, client, sender, body)
    select $1, $2, $3, $4, $5 from target, waiting where waiting.count < $6
    returning 1
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'node:' || $2, '', 'publish', now(), now(), '{}' from sent
    returning 1
)
select exists (select from target) as is_known, exists (select from sent) and exists (select from fed) as is_sent
