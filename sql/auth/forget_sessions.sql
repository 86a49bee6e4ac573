-- Deletes up to $1 sessions that ended a day before $2: a user can look them up until then.
delete from {schema}.sessions
where id in (select id from {schema}.sessions where expires < $2 - interval '24 hours' limit $1)
returning 1
