-- A file ($2) of an owner ($1; null: unowned).
select id, filename, size, mime_type, sha256, processed,
    to_char(uploaded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as uploaded_at,
    (extract(epoch from uploaded_at) * 1000000)::bigint as uploaded_us
from {schema}.files
where id = $2 and owner is not distinct from $1
