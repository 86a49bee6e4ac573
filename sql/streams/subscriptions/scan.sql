-- Paths of streams with ids above $1, up to $2.
select id, path from {schema}.streams where id > $1 and state = 0 order by id limit $2
