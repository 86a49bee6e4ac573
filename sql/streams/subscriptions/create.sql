-- Adds the subscription $1, unless the id is taken or there are $8 already; returns its number.
insert into {schema}.stream_subscriptions (id, webhook_url, pattern, wake_stream, lease_ms, description, config_hash)
select $1, $2, $3, $4, $5, $6, $7
where (select count(*) from {schema}.stream_subscriptions) < $8
on conflict (id) do nothing
returning number
