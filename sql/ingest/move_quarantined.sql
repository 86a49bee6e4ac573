-- Quarantined events become {state}. An event that no receipt settles is not returned.
with moved as (
    select receipts.journal, receipts.first, count(*) as events
    from unnest($1::uuid[]) as event (id)
    join {schema}.ingest_journals journals on journals.tag = {schema}.ingest_tag(event.id)
    join {schema}.ingest_receipts receipts
        on receipts.journal = journals.journal
        and {schema}.ingest_sequence(event.id) between receipts.first and receipts.last
    group by receipts.journal, receipts.first
)
update {schema}.ingest_receipts receipts
set quarantined = receipts.quarantined - moved.events, {state} = receipts.{state} + moved.events
from moved
where receipts.journal = moved.journal and receipts.first = moved.first and receipts.quarantined >= moved.events
returning moved.events
