-- The file cannot be read any further; what was stored of it stays, and is counted. A trigger that drops the change is an error.
with wanted as materialized (
    select file_id from {schema}.imports where file_id = $1 and state = 'running' for no key update
), failed as (
    update {schema}.imports
    set state = 'failed', finished = now(), error = $2,
        lines = sums.lines, stored = sums.stored, rejected = sums.rejected
    from wanted, (
        select coalesce(sum(lines), 0) as lines, coalesce(sum(stored), 0) as stored, coalesce(sum(rejected), 0) as rejected
        from {schema}.import_parts where file_id = $1
    ) as sums
    where imports.file_id = wanted.file_id
    returning 1
)
select {schema}.expect_rows('imports', count(*), (select count(*) from failed)) from wanted
