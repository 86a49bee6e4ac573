-- Shared by all who are about to put these contents ($1) into the folder and to name them in rows: until they have
-- committed the sweeper, which takes the same lock for itself alone, leaves the contents where they are. Always taken in
-- one order, so that nobody waits in a circle.
select pg_advisory_xact_lock_shared(key)
from (
    select distinct hashtextextended('{schema}.files content ' || encode(hash, 'hex'), 0) as key
    from unnest($1::bytea[]) as hash
    order by 1
) as keys
