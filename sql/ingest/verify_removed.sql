-- Rows deleted from requests, by sequence.
select tag, first, last from {schema}.ingest_removed where tag is not null
