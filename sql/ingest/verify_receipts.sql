select journals.journal, journals.tag, journals.kind, receipts.first, receipts.last, receipts.committed,
    receipts.duplicates, receipts.dead, receipts.discarded, receipts.quarantined,
    (extract(epoch from journals.registered_at) * 1000)::bigint as registered_ms
from {schema}.ingest_journals journals
left join {schema}.ingest_receipts receipts using (journal)
order by journals.registered_at, journals.journal, receipts.first
