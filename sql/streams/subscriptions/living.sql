-- Links `l` with the streams `t` that live at their paths.
{schema}.stream_subscription_links l
left join {schema}.streams t on t.path = l.path and t.state = 0 and (t.expires_at is null or t.expires_at > now())
