-- One node migrates at a time. The lock ends with the transaction, so it works through a pooler too. False while another node holds it.
select pg_try_advisory_xact_lock(hashtextextended('tidegate migrations ' || $1, 0))
