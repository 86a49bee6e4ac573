-- Files that a record ($2) of a collection ($1) names no more: $3.
delete from {schema}.record_files where collection = $1 and record = $2 and name = any($3)
