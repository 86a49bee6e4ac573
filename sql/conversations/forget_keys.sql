-- A lot of the keys that are older than $2 seconds. Those that are deleted with their conversation right now are left to it.
delete from {schema}.message_keys
where (conversation_id, key) in (
    select conversation_id, key from {schema}.message_keys
    where at < now() - make_interval(secs => $2)
    order by at
    limit $1
    for update skip locked
)
returning 1
