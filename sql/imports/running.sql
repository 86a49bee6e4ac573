-- Imports that are not done, the oldest first.
select imports.file_id, owner, kind, mapping::text as mapping, allowed, part_bytes, started_us
from {schema}.imports join {schema}.files on files.id = imports.file_id
where state = 'running'
order by started_us, imports.file_id
