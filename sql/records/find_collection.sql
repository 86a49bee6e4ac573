-- The number of a collection, and whether only typed collections' own face serves it.
select id, private from {schema}.collections where name = $1
