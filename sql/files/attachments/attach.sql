-- New files of records: collections, records, names, sizes, types and contents in $1 to $6.
insert into {schema}.record_files (collection, record, name, size, mime_type, sha256)
select collection, record, name, size, mime_type, sha256
from unnest($1::integer[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bytea[])
    as added (collection, record, name, size, mime_type, sha256)
returning 1
