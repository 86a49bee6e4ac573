-- The ids among $1 that records have.
select id from {table} where id = any($1)
