insert into {schema}.large_payloads (collection, id, created, bytes, parts) values ($1, $2, $3, $4, $5)
on conflict do nothing
