-- The columns of a stream `s`, with its status.
{columns},
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
