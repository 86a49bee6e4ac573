-- Deletes up to $2 positions that no connection has renewed for $1 seconds.
delete from {schema}.client_positions
where (identity, name) in (
    select identity, name from {schema}.client_positions where at < now() - make_interval(secs => $1) limit $2 for update skip locked
)
returning 1
