-- Which of these conversations have an owner; they are kept until the transaction ends. Always locked in one order, so there is no
-- deadlock.
select id from {schema}.conversations
where id = any($1) and owner is not distinct from $2
order by id
for key share
