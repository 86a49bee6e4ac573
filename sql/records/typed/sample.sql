-- The first records of a view's query: what it reads is known when it is made, its errors only once it runs.
select id, version, created, updated, data::text as data from ({query}) as sample limit 10
