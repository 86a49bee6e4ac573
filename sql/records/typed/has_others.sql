-- Whether a collection has records beside those with the ids $1.
select exists (select from {table} where id <> all($1)) as has_others
