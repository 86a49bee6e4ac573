-- Deletes up to $2 positions that no connection has renewed for $1 seconds. Returns the number of deleted ones, and of those that are left.
with forgotten as (
    delete from {schema}.client_positions
    where (identity, name) in (
        select identity, name from {schema}.client_positions where at < now() - make_interval(secs => $1) limit $2 for update skip locked
    )
    returning 1
)
-- Both parts of the statement see the table as it was before.
select (select count(*) from forgotten), (select count(*) from {schema}.client_positions) - (select count(*) from forgotten)
