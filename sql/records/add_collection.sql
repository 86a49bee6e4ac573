-- Whether the number of collections is at its limit; else the new one's number, or null if a trigger dropped it.
with counted as (
    select count(*) >= $2 as is_full from {schema}.collections
), added as (
    insert into {schema}.collections (name) select $1 from counted where not is_full returning id
)
select counted.is_full, added.id from counted left join added on true
