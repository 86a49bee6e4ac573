-- The records whose field names one of the ids $1: a field of one id, or of a list.
select id, version, created, updated, data::text as data from {table}
where {condition}
order by created, id
limit {limit}
