-- Forgets a collection. Its table is dropped in the same transaction.
delete from {schema}.collections where id = $1
