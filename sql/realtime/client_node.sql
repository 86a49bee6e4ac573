-- The node $1 has connections that any node can find. Deletes nodes that are gone.
with gone as (
    delete from {schema}.client_nodes
    where node in (
        select node from {schema}.client_nodes where seen < now() - interval '10 minutes' limit 10 for update skip locked
    )
)
insert into {schema}.client_nodes (node) values ($1) on conflict (node) do update set seen = now()
returning 1
