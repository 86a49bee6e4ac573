-- The state of each of these events. An event is in at most one of the three tables; one that is settled and in none of them was discarded,
-- is unreadable, or was deleted later.
select
    requests.id is not null as committed,
    letters.id is not null as dead_lettered,
    duplicates.first_id,
    removed.journal is not null as removed,
    receipts.journal is not null as settled,
    coalesce(receipts.discarded, 0) as discarded,
    coalesce(receipts.quarantined, 0) as quarantined
from unnest($1::uuid[]) with ordinality as wanted (id, place)
left join {schema}.requests requests on requests.id = wanted.id
left join {schema}.dead_letters letters on letters.id = wanted.id
left join {schema}.ingest_duplicates duplicates on duplicates.id = wanted.id
left join {schema}.ingest_journals journals on journals.tag = {schema}.ingest_tag(wanted.id)
left join lateral (
    select receipts.journal, receipts.discarded, receipts.quarantined
    from {schema}.ingest_receipts receipts
    where receipts.journal = journals.journal
      and receipts.first <= {schema}.ingest_sequence(wanted.id)
      and receipts.last >= {schema}.ingest_sequence(wanted.id)
    limit 1
) receipts on true
left join lateral (
    select journals.journal
    from {schema}.ingest_removed removed
    where removed.tag = journals.tag
      and {schema}.ingest_sequence(wanted.id) between removed.first and removed.last
    limit 1
) removed on true
order by wanted.place
