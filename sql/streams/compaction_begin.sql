-- Begins the next generation of a locked stream ($1): bytes at offsets change.
update {schema}.streams
set generation = generation + 1, compacts_until = now() + interval '30 seconds'
where id = $1
returning generation::bigint as generation
