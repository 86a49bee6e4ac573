-- A file ($2) of an owner ($1). Its content is left to the sweeper, as other files may have the same. A trigger that keeps it is an error.
with held as materialized (
    select id from {schema}.files where id = $2 and owner is not distinct from $1 for update
), deleted as (
    delete from {schema}.files using held where files.id = held.id returning files.id
)
select id from deleted
where (select {schema}.expect_rows('files', count(*), (select count(*) from deleted)) from held)
