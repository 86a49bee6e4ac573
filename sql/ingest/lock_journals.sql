-- Whoever changes receipts that are there locks their journals' rows first, as a fence does, which rewrites receipts.
select journal
from {schema}.ingest_journals
where tag in (select {schema}.ingest_tag(id) from unnest($1::uuid[]) as event (id))
order by journal
for no key update
