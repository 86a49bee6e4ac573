-- Adds the counts of a route's batches up. Of two nodes that do, each takes the rows that the other does not.
with gone as (
    delete from {schema}.route_counts where route = $1 returning rows, errors, microseconds, batches
)
insert into {schema}.route_counts (route, rows, errors, microseconds, batches)
select $1, sum(rows), sum(errors), sum(microseconds), sum(batches) from gone having count(*) > 0
