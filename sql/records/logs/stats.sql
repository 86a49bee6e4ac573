-- The numbers of entries by hour, for which conditions hold.
select date_trunc('hour', created, 'UTC') as hour, count(*) as total
from ({entries}) as entries
where {conditions}
group by hour
order by hour
