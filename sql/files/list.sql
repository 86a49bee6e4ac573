-- The files of an owner ($1; null: unowned), newest first: at most $2, with an offset of $3, after the file that was uploaded at $4
-- (microseconds of Unix time) and has the id $5, if there is one.
select id, filename, size, mime_type, sha256, processed,
    to_char(uploaded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as uploaded_at,
    (extract(epoch from uploaded_at) * 1000000)::bigint as uploaded_us
from {schema}.files
where coalesce(owner, '00000000-0000-0000-0000-000000000000') = coalesce($1, '00000000-0000-0000-0000-000000000000')
    and ($4::bigint is null or (uploaded_at, id) < ('epoch'::timestamptz + $4 * interval '1 microsecond', $5))
order by files.uploaded_at desc, id desc
limit $2 offset $3
