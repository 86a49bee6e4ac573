-- Deletes the subscription $1, with its links.
delete from {schema}.stream_subscriptions where id = $1 returning number
