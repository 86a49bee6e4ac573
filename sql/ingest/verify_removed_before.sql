-- What was taken out by time, truncated or beyond its retention: for each journal, the first sequence that is not older
-- than that.
with removed as (
    select max(to_id) as to_id, max(at) as at from {schema}.ingest_removed where tag is null
)
select journals.tag, (
    select min({schema}.ingest_sequence(requests.id))
    from {schema}.requests requests
    where requests.id > removed.to_id and {schema}.ingest_tag(requests.id) = journals.tag
) as first_left
from {schema}.ingest_journals journals, removed
where removed.to_id is not null and journals.registered_at <= removed.at
