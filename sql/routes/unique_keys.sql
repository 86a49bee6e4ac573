-- The columns of each unique index of the table $1 that `on conflict` can name.
select array(
    select a.attname::text
    from unnest(i.indkey::int2[]) with ordinality as k(number, place)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
    where place <= i.indnkeyatts
    order by a.attname
) as names
from pg_index i
where i.indrelid = $1 and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null
