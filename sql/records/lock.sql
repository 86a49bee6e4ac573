select id, version, created, updated, data::text as data from {table} where id = $1 for update
