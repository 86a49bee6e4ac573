-- The file cannot be read any further; what was stored of it stays, and is counted.
update {schema}.imports
set state = 'failed', finished = now(), error = $2,
    lines = sums.lines, stored = sums.stored, rejected = sums.rejected
from (
    select coalesce(sum(lines), 0) as lines, coalesce(sum(stored), 0) as stored, coalesce(sum(rejected), 0) as rejected
    from {schema}.import_parts where file_id = $1
) as sums
where file_id = $1 and state = 'running'
