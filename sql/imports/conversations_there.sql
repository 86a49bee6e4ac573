-- Which of these conversations exist. A separate statement after the one that creates them, so that it sees those of other transactions
-- that the first one waited for.
select id from {schema}.conversations where id = any($1)
