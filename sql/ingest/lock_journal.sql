-- As a fence does, before receipts that are there are changed. The number tells the service that they were.
update {schema}.ingest_journals set fence = fence + 1 where journal = $1
