-- Takes up to $2 messages to the node $1.
delete from {schema}.client_messages
where number in (select number from {schema}.client_messages where node = $1 order by number limit $2)
returning request, sender, client, body
