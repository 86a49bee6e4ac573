select sqlstate, message, count(*) as events, min(event_id::text)::uuid as example
from {schema}.route_errors where route = $1
group by sqlstate, message order by count(*) desc, sqlstate, message limit 20
