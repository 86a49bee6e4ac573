-- As try_locks.sql, for one conversation ($1) that somebody holds: waits for the others.
with held as materialized (
    select pg_advisory_xact_lock(hashtextextended('conversation:' || $1::uuid, 0))
)
select set_config('tidegate.locked', array[$1::uuid]::text, true)::uuid[] as locked from held
