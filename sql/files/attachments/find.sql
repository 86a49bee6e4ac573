-- A file ($3) of a record ($2) of a collection ($1), with the record's members.
select attached.size, attached.mime_type, attached.sha256, record.data::text as data,
    extract(epoch from attached.uploaded_at)::bigint as uploaded_s
from {schema}.record_files as attached
join {table} as record on record.id = attached.record
where attached.collection = $1 and attached.record = $2 and attached.name = $3
