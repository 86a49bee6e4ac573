-- Which of these conversations are there. Asked behind the statement that makes them, so that those of others that it waited for are seen.
select id from {schema}.conversations where id = any($1)
