-- Where the index is, for whoever works on it; no row while another node does. An advisory lock, as that gives the transaction no
-- xid: followers of the feed wait for those of transactions that write.
select xid::text, number, part
from {schema}.feed_readers
where name = 'search' and pg_try_advisory_xact_lock(hashtextextended('{schema} search', 0))
