-- Rejected lines, after a line.
select line, reason from {schema}.import_rejected where file_id = $1 and line > $2 order by line limit $3
