-- Locks the journals' rows against other transactions that change receipts, and makes this transaction write: a commit that has
-- written nothing flushes nothing.
update {schema}.ingest_journals set fence = fence + 1 where journal = any($1) returning journal, fence
