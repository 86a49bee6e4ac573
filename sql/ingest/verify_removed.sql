-- What was taken out of requests by sequence.
select tag, first, last from {schema}.ingest_removed where tag is not null
