-- The last $1 events, in the order of their ids.
insert into pg_temp.tidegate_check_plain
select * from (select * from {schema}.requests order by id desc limit $1) newest order by id
