select coalesce(max(last) + 1, 0) from {schema}.ingest_receipts where journal = $1
