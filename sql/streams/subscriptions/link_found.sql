-- Links the streams $2, which its pattern matches, to the subscription $1: at their ends if $3, else where their own data begins. Links that are
-- there are left alone.
insert into {schema}.stream_subscription_links (subscription, path, stream, acked, is_explicit)
select s.number, t.path, t.id, case when $3 then t.tail else coalesce(t.fork_end, 0) end, false
from {schema}.stream_subscriptions s
join {schema}.streams t on t.path = any($2) and t.state = 0 and (t.expires_at is null or t.expires_at > now())
where s.number = $1
order by t.path
on conflict (subscription, path) do nothing
