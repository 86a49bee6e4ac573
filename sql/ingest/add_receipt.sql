-- In the transaction of the rows themselves: the sequences are settled if and only if it commits.
insert into {schema}.ingest_receipts (journal, first, last, committed, duplicates, dead, quarantined)
values ($1, $2, $3, $4, $5, $6, $7)
