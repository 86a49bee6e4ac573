-- $1 is the collection's number, $2 its name, $3 its schema, $4 whether it is private.
update {schema}.collections set name = $2, schema = $3, private = $4, updated = greatest(now(), created) where id = $1
