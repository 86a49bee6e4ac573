delete from {schema}.dead_letters where id = any($1)
