-- All settled ranges of some journals.
select journal, first, last, committed, duplicates, dead, discarded, quarantined
from {schema}.ingest_receipts
where journal = any($1)
order by journal, first
