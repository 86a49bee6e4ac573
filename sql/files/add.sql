-- The files of one upload: ids, names, paths, sizes, types and contents in $1 to $6, their owner in $7.
insert into {schema}.files (id, filename, file_path, size, mime_type, sha256, owner)
select id, filename, file_path, size, mime_type, sha256, $7
from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bytea[])
    as added (id, filename, file_path, size, mime_type, sha256)
returning to_char(uploaded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as uploaded_at
