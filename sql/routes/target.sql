-- The table named $1, which has two parts. No row: there is none. `reason`: why it can be no target.
with parts as (
    select parse_ident($1) as name
)
select c.oid, n.nspname, c.relname, format('%I.%I', n.nspname, c.relname) as quoted,
    case
        when c.relkind = 'f' then 'is a foreign table: what is written there is not in this transaction'
        when c.relkind in ('v', 'm') then 'is a view'
        when c.relkind not in ('r', 'p') then 'is no table'
        when c.relpersistence = 't' then 'is a temporary table'
        when n.nspname ~ '^pg_' or n.nspname = 'information_schema' then 'is a table of Postgres'
        when exists (
            select from pg_partition_tree(c.oid) part join pg_class child on child.oid = part.relid where child.relkind = 'f'
        ) then 'has partitions that are foreign tables: what is written there is not in this transaction'
        when n.nspname = $2 and (c.relname = any($3) or c.relname ~ $4) then 'is a table of the service'
    end as reason
from parts
join pg_namespace n on n.nspname = name[1]
join pg_class c on c.relnamespace = n.oid and c.relname = name[2]
where cardinality(name) = 2
