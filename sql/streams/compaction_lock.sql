-- Locks a stream ($1) of a generation ($2) against appends and forks; no row: it is gone, or another node has compacted it.
select id from {schema}.streams where id = $1 and state = 0 and generation = $2 for update
