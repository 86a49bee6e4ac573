select exists (select from {schema}.ingest_journals where journal = $1)
