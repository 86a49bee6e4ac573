-- The times for which `requests` has a partition now, without the default one, and the time of the snapshot. No row: it is not
-- partitioned.
with bounds as (
    select pg_get_expr(child.relpartbound, child.oid) as bound
    from pg_inherits
    join pg_class child on child.oid = inhrelid
    where inhparent = to_regclass('{schema}.requests')
)
select
    {schema}.ingest_ms(substring(bound from 'FROM \(''([0-9a-f-]{36})''\)')::uuid) as from_ms,
    {schema}.ingest_ms(substring(bound from 'TO \(''([0-9a-f-]{36})''\)')::uuid) as to_ms,
    (extract(epoch from now()) * 1000)::bigint as now_ms
from bounds
