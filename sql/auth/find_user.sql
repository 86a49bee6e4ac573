select id, email, permissions, to_char(created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created
from {schema}.users
where id = $1
