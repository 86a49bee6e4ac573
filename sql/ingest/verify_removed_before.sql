-- Rows deleted by time, truncated or beyond the retention: for each journal, the first sequence that is younger.
with removed as (
    select to_id, max(at) over () as at
    from {schema}.ingest_removed
    where tag is null and (cause = 'retention' or from_id = '00000000-0000-0000-0000-000000000000')
    order by to_id desc
    limit 1
)
select journals.tag, (
    select min({schema}.ingest_sequence(requests.id))
    from {schema}.requests requests
    where requests.id > removed.to_id and {schema}.ingest_tag(requests.id) = journals.tag
) as first_left
from {schema}.ingest_journals journals, removed
where journals.registered_at <= removed.at
