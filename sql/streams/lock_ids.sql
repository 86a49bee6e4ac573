-- Locks streams ($1) by their ids, in order.
select id from {schema}.streams where id = any($1) order by id for no key update
