-- Before existing receipts are changed, as in a checkpoint. The service takes the higher number as such a change.
update {schema}.ingest_journals set fence = fence + 1 where journal = $1
