-- Users in the order of their creation, after one of them.
select id, coalesce(email, '') as email, permissions,
    to_char(created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created, issuer, subject
from {schema}.users
where ($1::uuid is null or (created, id) > (select created, id from {schema}.users where id = $1))
order by created, id
limit $2
