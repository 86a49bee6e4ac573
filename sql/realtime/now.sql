-- The snapshot of this statement, and the highest transaction of which it sees a change. Without changes, `highest` is null: the floor
-- names what was deleted.
select pg_current_snapshot()::text as snapshot,
    (select xid::text from {schema}.changes order by changes.xid desc, number desc limit 1) as highest,
    (select seen from {schema}.feed_floor) as floor,
    (select system_identifier::text from pg_control_system()) as system,
    substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as timeline
