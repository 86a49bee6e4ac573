-- Conditions and order are built from fixed expressions; everything that a client sent is a parameter.
select id, created, data::text as data
from ({entries}) as entries
where {conditions}
order by {order}
limit {limit} offset {offset}
