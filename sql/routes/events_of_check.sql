with batch as (select * from pg_temp.tidegate_check_plain)
