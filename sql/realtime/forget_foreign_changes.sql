-- Everything that this statement sees was committed before it got its own xid, so no change of this server has a higher one, and no reader
-- is further. Search may not have read all of the changes deleted here, and looks through the messages for those it does not know.
with gone as (
    delete from {schema}.changes where xid > pg_current_xact_id() returning 1
)
update {schema}.feed_readers
set catch_up = '00000000-0000-0000-0000-000000000000'
where name = 'search' and (xid > pg_current_xact_id() or exists (select from gone))
