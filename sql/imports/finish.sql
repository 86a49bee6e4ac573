-- All parts are stored: the import's counts are their sums. A trigger that drops one of these changes is an error.
with wanted as materialized (
    select file_id from {schema}.imports where file_id = $1 and state = 'running' for no key update
), parts as (
    delete from {schema}.import_parts where file_id = $1 returning lines, stored, rejected
), done as (
    update {schema}.imports
    set state = 'done', finished = now(), error = null,
        lines = (select coalesce(sum(lines), 0) from parts),
        stored = (select coalesce(sum(stored), 0) from parts),
        rejected = (select coalesce(sum(rejected), 0) from parts)
    from wanted
    where imports.file_id = wanted.file_id
    returning imports.file_id
), marked as (
    update {schema}.files set processed = true from done where files.id = done.file_id returning 1
)
select {schema}.expect_rows('imports', count(*), (select count(*) from done))
    and {schema}.expect_rows('files', count(*), (select count(*) from marked))
from wanted
