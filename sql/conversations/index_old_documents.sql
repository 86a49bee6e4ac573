-- The next $1 documents whose words are in an older form, in the order of their ids. At least one row while there is a rebuild, without an
-- id if none is left; no row if there is no rebuild.
select d.id
from {schema}.search_rebuild r
left join lateral (
    select id from {schema}.search_documents where id > r.done and id <= r.last order by id limit $1
) as d on true
order by d.id
