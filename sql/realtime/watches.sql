select id from {schema}.watched_tables order by id
