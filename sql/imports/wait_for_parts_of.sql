-- Waits for the parts in flight of a user's ($1) files: each holds its import's row until it commits.
select 1
from {schema}.imports join {schema}.files on files.id = imports.file_id
where files.owner = $1
order by imports.file_id
for update of imports
