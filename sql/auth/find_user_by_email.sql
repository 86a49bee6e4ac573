-- Whoever signs in with this email.
select id, email, permissions, to_char(created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created,
    password_hash
from {schema}.users
where lower(email) = lower($1) and password_hash is not null
