-- Conditions, keys and order are put together from expressions of our own; whatever a client sent is a parameter.
select id, version, created, updated, data::text as data{keys}
from {table}
where {conditions}
order by {order}
limit {limit} offset {offset}
