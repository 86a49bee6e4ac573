-- The first statement of a change: a transaction has no xid while it waits for an advisory lock, as it may have while it waits for a row's
-- lock, so the feed's order is the order of each record's changes. Two ids with one hash only wait for each other. Always taken in one
-- order, so there is no deadlock. $1 is the collection's number.
select pg_advisory_xact_lock($1, key)
from (select distinct hashtext(id) as key from unnest($2::text[]) as id order by 1) as keys
