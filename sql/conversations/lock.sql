-- The first statement of whatever changes a conversation. No transaction has its xid while it waits for an advisory lock, as
-- it may while it waits for a row's: so the feed's order is the order of each conversation's changes.
select pg_advisory_xact_lock(hashtextextended('conversation:' || $1::uuid, 0))
