-- The subscription $1, with the hash of its configuration.
select {columns}, s.config_hash from {schema}.stream_subscriptions s where s.id = $1
