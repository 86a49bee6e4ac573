-- Files of a collection ($1) that is deleted.
delete from {schema}.record_files where collection = $1
