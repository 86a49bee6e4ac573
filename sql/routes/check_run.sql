insert into pg_temp.tidegate_check_routed select * from pg_temp.tidegate_check_plain order by id
