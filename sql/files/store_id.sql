-- Which database this is, to the folder of contents.
select id from {schema}.file_store
