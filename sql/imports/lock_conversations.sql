-- Which of these conversations are somebody's own; they stay until the transaction ends. Always in one order, so that
-- nobody waits in a circle.
select id from {schema}.conversations
where id = any($1) and owner is not distinct from $2
order by id
for key share
