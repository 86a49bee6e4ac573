-- The stored parts of a file.
select number, first_line, lines, end_offset, rejected from {schema}.import_parts where file_id = $1 order by number
