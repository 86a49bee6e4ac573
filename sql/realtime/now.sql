-- The snapshot of this statement, the start of its server (sql/db/server_identity.sql), and the highest transaction of which it sees a change. Without changes, `highest` is null: the floor
-- names what was deleted.
select pg_current_snapshot()::text as snapshot,
    (select xid::text from {schema}.changes order by changes.xid desc, number desc limit 1) as highest,
    (select seen from {schema}.feed_floor) as floor,
    (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint as started_us
