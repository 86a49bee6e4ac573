-- Nothing is returned when there are as many as there may be.
insert into {schema}.collections (name)
select $1 where (select count(*) from {schema}.collections) < $2
returning id
