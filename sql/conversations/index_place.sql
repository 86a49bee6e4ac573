-- The index's cursor, and how far it has caught up after a restore. A separate statement after the one that takes the lock: that one's
-- snapshot is older than its lock, and may not see the cursor of the previous holder. Rejecting a move backwards instead would be wrong:
-- the cursor has to move back when the database came from another server.
select seen, until, xid::text, number, part, catch_up from {schema}.feed_readers where name = 'search'
