-- The sessions of a user beyond the $2 that were used last.
select id from {schema}.sessions
where user_id = $1 and revoked is null and expires > now()
order by last_used desc, id
offset $2
