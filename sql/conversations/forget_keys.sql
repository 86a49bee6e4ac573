-- Deletes up to $1 keys older than $2 seconds at $3. Skips keys that are being deleted with their conversation.
delete from {schema}.message_keys
where (conversation_id, key) in (
    select conversation_id, key from {schema}.message_keys
    where at < $3 - make_interval(secs => $2)
    order by at
    limit $1
    for update skip locked
)
returning 1
