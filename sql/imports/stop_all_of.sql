-- Ends the imports of a user's ($1) files, which are about to be deleted with the user ($2 is the reason). Parts may still be in flight, so
-- `count_parts_of` counts what was stored once they have ended.
update {schema}.imports
set state = 'failed', finished = now(), error = $2
from {schema}.files
where files.id = imports.file_id and files.owner = $1 and state = 'running'
