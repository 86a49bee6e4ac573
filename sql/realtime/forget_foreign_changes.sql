-- Everything that a snapshot sees has a lower xid than the snapshot's end, so no change of this server has a higher one, and no reader is
-- further. The statement's own xid would be no such bound: planning assigns it, before the statement takes its snapshot. Search may not have
-- read all of the changes deleted here, and looks through the messages for those it does not know.
with gone as (
    delete from {schema}.changes where xid >= pg_snapshot_xmax(pg_current_snapshot()) returning 1
)
update {schema}.feed_readers
set catch_up = '00000000-0000-0000-0000-000000000000'
where name = 'search' and (
    pg_snapshot_xmax(seen::pg_snapshot) > pg_snapshot_xmax(pg_current_snapshot())
    or pg_snapshot_xmax(until::pg_snapshot) > pg_snapshot_xmax(pg_current_snapshot())
    or exists (select from gone)
)
