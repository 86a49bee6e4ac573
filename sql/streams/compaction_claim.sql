-- Begins a compaction of a stream ($1), unless another node works on it. A node that ends in between leaves it to others half a minute later.
update {schema}.streams
set compacts_until = now() + interval '30 seconds'
where id = $1 and state = 0 and (compacts_until is null or compacts_until < now())
returning generation::bigint as generation
