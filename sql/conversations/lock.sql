-- The first statement of every change to a conversation. A transaction has no xid while it waits for an advisory lock, as it may have while
-- it waits for a row's lock: so the feed's order is the order of each conversation's changes.
select pg_advisory_xact_lock(hashtextextended('conversation:' || $1::uuid, 0))
