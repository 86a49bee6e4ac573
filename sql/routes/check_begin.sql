-- Stands for requests: the route's trigger is made on the second of them. The transaction is rolled back.
create temporary table tidegate_check_plain (like {schema}.requests) on commit drop;
create temporary table tidegate_check_routed (like {schema}.requests) on commit drop;
create trigger tidegate_check after insert on pg_temp.tidegate_check_routed referencing new table as batch
    for each statement execute function {schema}.{function}();
