-- Waits for the parts of a user's ($1) files that are on their way, as each holds its import's row until it is committed.
select 1
from {schema}.imports join {schema}.files on files.id = imports.file_id
where files.owner = $1
order by imports.file_id
for update of imports
