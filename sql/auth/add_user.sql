-- A user with a password. Whether the email is taken is told by the index users_email.
insert into {schema}.users (email, password_hash, permissions)
values ($1, $2, $3)
returning id, email, permissions, to_char(created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created
