-- Subscriptions with a delivery or the end of a lease within a second; microseconds until it.
select number, (extract(epoch from due_at - clock_timestamp()) * 1000000)::bigint as wait_us
from {schema}.stream_subscriptions
where due_at < clock_timestamp() + interval '1 second'
order by due_at
limit 1000
