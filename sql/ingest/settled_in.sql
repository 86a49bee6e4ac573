-- The settled ranges within a range of a journal.
select first, last from {schema}.ingest_receipts where journal = $1 and first <= $3 and last >= $2 order by first
