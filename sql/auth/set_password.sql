update {schema}.users set password_hash = $2
where lower(email) = lower($1) and password_hash is not null
returning id
