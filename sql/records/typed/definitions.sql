-- Every collection, in the order of creation, with its schema.
select id, name, schema::text as schema, created, updated from {schema}.collections order by id
