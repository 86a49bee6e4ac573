-- Ends the imports of a user's ($1) files, which are to go with him ($2 says so). Parts may be on their way still, so what was
-- stored is counted by `count_parts_of` when they have come to an end.
update {schema}.imports
set state = 'failed', finished = now(), error = $2
from {schema}.files
where files.id = imports.file_id and files.owner = $1 and state = 'running'
