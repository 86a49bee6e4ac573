-- Locks a stream ($1) for its deletion.
select id from {schema}.streams where id = $1 and state < 2 for update
