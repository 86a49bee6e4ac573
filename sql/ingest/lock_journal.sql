-- As a fence does, before receipts that are there are changed. The service reads the higher number as such a change.
update {schema}.ingest_journals set fence = fence + 1 where journal = $1
