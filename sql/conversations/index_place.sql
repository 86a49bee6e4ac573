-- Where the index is, and after a restore how far it has caught up. A statement of its own, behind the one that takes the lock: that one's
-- snapshot is older than its lock, so it may not see where the node got to that had the lock before. The place may not be held by
-- refusing to move back instead: it has to move back when the database came from another server.
select xid::text, number, part, catch_up from {schema}.feed_readers where name = 'search'
