-- Ids of records that are deleted next, in their order.
select id from {table} order by id limit 1000
