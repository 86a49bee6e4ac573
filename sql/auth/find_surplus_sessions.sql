-- A user's sessions beyond the $2 most recently used.
select id from {schema}.sessions
where user_id = $1 and revoked is null and expires > now()
order by last_used desc, id
offset $2
