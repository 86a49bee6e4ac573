-- A lot of sessions that have been over for a day: long enough for whoever wonders.
delete from {schema}.sessions
where id in (select id from {schema}.sessions where expires < now() - interval '1 day' limit $1)
returning 1
