-- The new state ($2) of a stream ($1) that is locked.
update {schema}.streams set state = $2 where id = $1
