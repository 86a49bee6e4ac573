-- $1 is the topic. Clocks of several nodes differ: a record is never updated before it was created.
with changed as (
    update {table}
    set version = nextval('{schema}.change_numbers'), updated = greatest($3, updated), data = $4
    where id = $2
    returning id, version, created, updated, data
)
