-- Up to $1 of the keys that are more than $2 seconds old at $3. Those that are deleted with their conversation right now are left to it.
delete from {schema}.message_keys
where (conversation_id, key) in (
    select conversation_id, key from {schema}.message_keys
    where at < $3 - make_interval(secs => $2)
    order by at
    limit $1
    for update skip locked
)
returning 1
