-- The first statement of a change: no transaction has its xid while it waits for an advisory lock, as it may while it
-- waits for a row's, so that the feed's order is the order of each record's changes. Two ids with one hash only wait for
-- each other. Always taken in one order, so that nobody waits in a circle. $1 is the collection's number.
select pg_advisory_xact_lock($1, key)
from (select distinct hashtext(id) as key from unnest($2::text[]) as id order by 1) as keys
