insert into {target} ({columns})
{events}
select {row_columns} from (
{select}
) as route_row
