-- Deletes up to $2 entries of up to $1.
delete from {schema}.request_logs
where id in (select id from {schema}.request_logs where created <= $1 order by created, id limit $2)
returning 1
