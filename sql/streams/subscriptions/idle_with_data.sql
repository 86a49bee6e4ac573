-- Subscriptions without a wake under way that have pending data: the node that took the append ended before it looked.
select s.number
from {schema}.stream_subscriptions s
where s.phase is null
    and exists (
        select from {living}
        where l.subscription = s.number and t.tail > {acked}
    )
