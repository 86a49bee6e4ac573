-- Every part is in: the parts' sums are the import's.
with parts as (
    delete from {schema}.import_parts where file_id = $1 returning lines, stored, rejected
), done as (
    update {schema}.imports
    set state = 'done', finished = now(), error = null,
        lines = (select coalesce(sum(lines), 0) from parts),
        stored = (select coalesce(sum(stored), 0) from parts),
        rejected = (select coalesce(sum(rejected), 0) from parts)
    where file_id = $1 and state = 'running'
    returning file_id
)
update {schema}.files set processed = true from done where files.id = done.file_id
