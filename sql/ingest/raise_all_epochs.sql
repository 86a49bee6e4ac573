-- Waits for every transaction that a former process may still have under way, and keeps the later ones of it out.
update {schema}.ingest_lanes set epoch = epoch + 1 where journal = $1
