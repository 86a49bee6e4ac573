-- As try_locks.sql, for one locked conversation ($1): waits for its lock, and then for writers that hold its row without the lock. If the
-- conversation is gone afterwards, the statements after this one see that.
with held as materialized (
    select pg_advisory_xact_lock(hashtextextended('conversation:' || $1::uuid, 0))
), written as materialized (
    select c.id from held cross join {schema}.conversations c where c.id = $1 for no key update of c
)
select set_config('tidegate.locked', array[$1::uuid]::text, true)::uuid[] as locked, (select count(*) from written) as written
from held
