select id, version, created, updated, data::text as data from {table} where id = any($1)
