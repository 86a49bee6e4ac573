-- Up to $1 sessions that have been over for a day at $2: long enough for a user to look into what became of one.
delete from {schema}.sessions
where id in (select id from {schema}.sessions where expires < $2 - interval '24 hours' limit $1)
returning 1
