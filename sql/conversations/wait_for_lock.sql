-- As try_locks.sql, for one conversation ($1) that somebody holds: waits for the others, and then for those who hold its row without
-- the lock. If that is gone afterwards, the statements behind this one see it.
with held as materialized (
    select pg_advisory_xact_lock(hashtextextended('conversation:' || $1::uuid, 0))
), written as materialized (
    select c.id from held cross join {schema}.conversations c where c.id = $1 for no key update of c
)
select set_config('tidegate.locked', array[$1::uuid]::text, true)::uuid[] as locked, (select count(*) from written) as written
from held
