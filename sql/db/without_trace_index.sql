-- The tables of events without a valid index that begins with trace_id, each with the name of an index that an interrupted build
-- left behind.
with leaves as (
    select relid::oid as oid from pg_partition_tree(to_regclass('{schema}.requests')) where isleaf
    union all
    select oid from pg_class where oid = to_regclass('{schema}.requests') and relkind = 'r'
    union all
    select to_regclass('{schema}.dead_letters')::oid
),
on_traces as (
    select indrelid, indexrelid, indisvalid
    from pg_index
    join pg_attribute on attrelid = indrelid and attnum = indkey[0]
    where attname = 'trace_id' and indpred is null
)
select leaf.relname::text, (
    select remains.relname::text
    from on_traces
    join pg_class remains on remains.oid = indexrelid
    where indrelid = leaf.oid and not indisvalid and remains.relname = leaf.relname || '_trace_id'
)
from leaves
join pg_class leaf using (oid)
where not exists (select from on_traces where indrelid = leaf.oid and indisvalid)
order by leaf.relname
