-- Subscriptions that are linked to one of the streams $1 and have no wake under way.
select s.number
from {schema}.stream_subscriptions s
where s.phase is null
    and exists (select from {schema}.stream_subscription_links l where l.path = any($1) and l.subscription = s.number)
