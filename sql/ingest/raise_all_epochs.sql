-- Waits for every transaction that a former process may still have in flight, and fences off its later ones.
update {schema}.ingest_lanes set epoch = epoch + 1 where journal = $1
