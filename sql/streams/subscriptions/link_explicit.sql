-- Links the streams $2 to the subscription $1 by name, at their ends. Links that are there keep their offsets.
insert into {schema}.stream_subscription_links as old (subscription, path, stream, acked, is_explicit)
select s.number, p.path, t.id, coalesce(t.tail, 0), true
from {schema}.stream_subscriptions s
cross join (select distinct path from unnest($2::text[]) as p (path)) as p
left join {schema}.streams t on t.path = p.path and t.state = 0 and (t.expires_at is null or t.expires_at > now())
where s.number = $1
order by p.path
on conflict (subscription, path) do update set is_explicit = true where not old.is_explicit
