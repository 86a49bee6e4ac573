-- The next $1 documents whose words are of an older form, in the order of their ids. One row at least while there is a rebuild,
-- without an id if none is left; no row if there is none.
select d.id
from {schema}.search_rebuild r
left join lateral (
    select id from {schema}.search_documents where id > r.done and id <= r.last order by id limit $1
) as d on true
order by d.id
