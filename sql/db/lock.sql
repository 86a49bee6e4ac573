-- One node migrates at a time. The lock lives as long as the transaction, so it works through a pooler too.
select pg_advisory_xact_lock(hashtextextended('tidegate migrations ' || $1, 0))
