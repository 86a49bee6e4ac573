-- Without a name ($4) the key gets the name of the key that it replaces ($9).
insert into {schema}.api_keys (id, prefix, hash, name, scopes, admin, owner, expires, origins)
values (
    $1, $2, $3, coalesce($4, (select name from {schema}.api_keys where id = $9), ''), $5, $6, $7,
    timestamptz 'epoch' + $8 * interval '1 second', $10
)
returning name
