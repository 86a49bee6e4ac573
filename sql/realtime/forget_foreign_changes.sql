-- What this statement sees was committed before it got a number itself, so no change of this server has a higher one, and no reader is
-- further. Search may not have read all that goes here, and looks through the messages for what it does not know.
with gone as (
    delete from {schema}.changes where xid > pg_current_xact_id() returning 1
)
update {schema}.feed_readers
set catch_up = '00000000-0000-0000-0000-000000000000'
where name = 'search' and (xid > pg_current_xact_id() or exists (select from gone))
