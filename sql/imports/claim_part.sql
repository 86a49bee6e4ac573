-- The first statement of a part's transaction. A second attempt at the part waits here for the first one, and finds it claimed if that was
-- committed. `is_running` reports whether the import exists and is still wanted: deleting its file stops it first.
with wanted as (
    select from {schema}.imports where file_id = $1 and state = 'running'
), claimed as (
    insert into {schema}.import_parts (file_id, number, first_line, lines, bytes, end_offset)
    select $1, $2, $3, $4, $5, $6 from wanted
    on conflict do nothing
    returning 1
)
select exists (select from wanted) as is_running, exists (select from claimed) as is_claimed
