delete from {schema}.dead_letters where id = $1 returning reason
