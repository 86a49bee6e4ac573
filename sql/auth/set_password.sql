-- Whom an issuer vouches for has no password.
update {schema}.users set password_hash = $2
where id = $1 and password_hash is not null
returning id
