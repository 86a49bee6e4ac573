-- The id of this database, for the folder of contents.
select id from {schema}.file_store
