-- Deletes up to $2 entries below the level $1.
delete from {schema}.request_logs
where id in (select id from {schema}.request_logs where level < $1 limit $2 for update skip locked)
returning 1
