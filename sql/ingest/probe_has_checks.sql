-- Whether requests has CHECK constraints that can be evaluated before an insert: no trigger, of the table or
-- of a partition, may change a row first.
select exists (select from pg_catalog.pg_constraint where conrelid = requests.oid and contype = 'c')
    -- Bits of tgtype: 1 for each row, 2 before.
    and not exists (
        select from pg_catalog.pg_trigger
        where (tgrelid = requests.oid or tgrelid in (select relid from pg_catalog.pg_partition_tree(requests.oid)))
            and tgtype & 3 = 3 and tgenabled <> 'D'
    )
from (select '{schema}.requests'::regclass as oid) requests
