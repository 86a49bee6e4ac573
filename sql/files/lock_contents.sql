-- Shared by all uploads that are about to put these contents ($1) into the folder and to name them in rows. Until they commit, the
-- sweeper, which takes the same lock exclusively, leaves the contents in place. Always taken in one order, so there is no deadlock.
select pg_advisory_xact_lock_shared(key)
from (
    select distinct hashtextextended('{schema}.files content ' || encode(hash, 'hex'), 0) as key
    from unnest($1::bytea[]) as hash
    order by 1
) as keys
