-- Conditions and order are built from fixed expressions; everything that a client sent is a parameter.
select id, version, created, updated, data::text as data
from {table}
where {conditions}
order by {order}
limit {limit} offset {offset}
