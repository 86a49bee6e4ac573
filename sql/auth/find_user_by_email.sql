-- The user who signs in with this email, in one of three spellings; the first one counts before the others.
select id, email, permissions, to_char(created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created,
    password_hash
from {schema}.users
where lower(email) in (lower($1), lower($2), lower($3)) and password_hash is not null
order by lower(email) = lower($1) desc, lower(email) = lower($2) desc
limit 1
