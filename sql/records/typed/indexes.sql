-- The indexes of a collection's table ($1) that its schema made: their names begin with $2.
select index.relname::text as name
from pg_catalog.pg_index as made
join pg_catalog.pg_class as index on index.oid = made.indexrelid
where made.indrelid = $1::text::regclass and starts_with(index.relname::text, $2)
