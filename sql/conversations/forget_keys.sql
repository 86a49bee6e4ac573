-- A lot of the keys that are older than $2 seconds.
delete from {schema}.message_keys
where (conversation_id, key) in (
    select conversation_id, key from {schema}.message_keys
    where at < now() - make_interval(secs => $2)
    order by at
    limit $1
)
returning 1
