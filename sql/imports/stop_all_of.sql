-- Ends the imports of a user's ($1) files, which are to go with him ($2 says so). What was stored is counted.
update {schema}.imports
set state = 'failed', finished = now(), error = $2,
    lines = sums.lines, stored = sums.stored, rejected = sums.rejected
from (
    select running.file_id, coalesce(sum(parts.lines), 0) as lines, coalesce(sum(parts.stored), 0) as stored,
        coalesce(sum(parts.rejected), 0) as rejected
    from {schema}.imports as running
    join {schema}.files on files.id = running.file_id
    left join {schema}.import_parts as parts on parts.file_id = running.file_id
    where running.state = 'running' and files.owner = $1
    group by running.file_id
) as sums
where imports.file_id = sums.file_id and state = 'running'
