-- Transactions that change existing receipts lock their journals' rows first, as a checkpoint does, which rewrites receipts.
select journal
from {schema}.ingest_journals
where tag in (select {schema}.ingest_tag(id) from unnest($1::uuid[]) as event (id))
order by journal
for no key update
