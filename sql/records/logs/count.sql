-- The number of entries for which conditions hold.
select count(*) as total from ({entries}) as entries where {conditions}
