insert into {target} ({columns})
{events}
select {row_columns} from (
select distinct on ({typed_key}, route_lone) route_typed.*,
case when pg_catalog.num_nulls({typed_key}) > 0 then route_typed.tidegate_place end as route_lone
from (
select {typed_columns}, pg_catalog.row_number() over () as tidegate_place from (
{select}
) as route_one
) as route_typed
order by {typed_key}, route_lone, route_typed.tidegate_place desc
) as route_row
order by {row_key}
