-- Files of records ($2) of a collection ($1) that are deleted.
delete from {schema}.record_files where collection = $1 and record = any($2)
