-- One node migrates at a time. The lock lives as long as the transaction, so it works through a pooler too. False while another
-- node has it.
select pg_try_advisory_xact_lock(hashtextextended('tidegate migrations ' || $1, 0))
