select count(*) from {table} where {conditions}
