-- Adds the secret $3, which is used from $4 on.
insert into {schema}.stream_secrets (id, kind, secret, since) values ($1, $2, $3, $4)
