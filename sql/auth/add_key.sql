insert into {schema}.api_keys (id, prefix, hash, name, scopes, admin, owner, expires)
values ($1, $2, $3, $4, $5, $6, $7, timestamptz 'epoch' + $8 * interval '1 second')
