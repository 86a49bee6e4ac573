-- The first statement of a part's transaction: a second attempt at the part waits here for the first one, and comes back
-- empty if that was committed.
insert into {schema}.import_parts (file_id, number, first_line, lines, bytes, end_offset)
values ($1, $2, $3, $4, $5, $6)
on conflict do nothing
returning 1
