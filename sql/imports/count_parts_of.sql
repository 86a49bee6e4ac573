-- Counts what a user's ($1) imports that ended early have stored. Their parts are kept, so it can be repeated.
update {schema}.imports
set lines = sums.lines, stored = sums.stored, rejected = sums.rejected
from (
    select ended.file_id, coalesce(sum(parts.lines), 0) as lines, coalesce(sum(parts.stored), 0) as stored,
        coalesce(sum(parts.rejected), 0) as rejected
    from {schema}.imports as ended
    join {schema}.files on files.id = ended.file_id
    left join {schema}.import_parts as parts on parts.file_id = ended.file_id
    where ended.state = 'failed' and files.owner = $1
    group by ended.file_id
) as sums
where imports.file_id = sums.file_id
