-- Times whose rows were deleted with a partition: it was truncated, or dropped or detached and created again.
select {schema}.ingest_ms(from_id) as from_ms, {schema}.ingest_ms(to_id) as to_ms
from {schema}.ingest_removed
where tag is null and cause in ('truncate', 'partition') and from_id > '00000000-0000-0000-0000-000000000000'
