-- Whether there are as many as there may be; else its number, and nothing if a trigger dropped it.
with counted as (
    select count(*) >= $2 as is_full from {schema}.collections
), added as (
    insert into {schema}.collections (name) select $1 from counted where not is_full returning id
)
select counted.is_full, added.id from counted left join added on true
