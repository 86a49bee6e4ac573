-- The columns of a stream `s`.
s.id, s.path, s.content_type, s.tail, s.kept_from, s.is_closed, s.ttl_s, s.source, s.fork_end, s.fork_source, s.fork_offset, s.fork_sub_offset,
    s.inherits_lifetime, s.retention_age_s, s.retention_bytes, s.compacts_by_key, s.generation,
    (extract(epoch from s.expires_at) * 1000000)::bigint as expires_us,
    (extract(epoch from s.expires_at - now()) * 1000000)::bigint as left_us,
    (extract(epoch from s.created_at) * 1000000)::bigint as created_us,
    -- An ended stream with living forks is kept for them.
    case
        when s.state = 0 and (s.expires_at is null or s.expires_at > now()) then 'living'
        when exists (
            with recursive below as (
                select f.id, f.state, f.expires_at from {schema}.streams f where f.source = s.id and f.state < 2
                union all
                select f.id, f.state, f.expires_at from below join {schema}.streams f on f.source = below.id where f.state < 2
            )
            select from below where state = 0 and (expires_at is null or expires_at > now())
        ) then 'kept'
        else 'ended'
    end as status
