-- Unfinished imports, oldest first; or that of one file.
select imports.file_id, owner, kind, mapping::text as mapping, allowed, part_bytes, started_us
from {schema}.imports join {schema}.files on files.id = imports.file_id
where state = 'running' and ($1::uuid is null or imports.file_id = $1)
order by started_us, imports.file_id
