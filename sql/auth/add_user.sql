-- A user with a password, unless the email is taken. The index users_email reports one that is stored in the same spelling; $4, $5
-- and $6 are spellings in which earlier versions may have stored it.
insert into {schema}.users (email, password_hash, permissions)
select $1, $2, $3
where not exists (
    select from {schema}.users where lower(email) in (lower($4), lower($5), lower($6)) and password_hash is not null
)
returning id, email, permissions, to_char(created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created
