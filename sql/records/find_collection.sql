select id from {schema}.collections where name = $1
