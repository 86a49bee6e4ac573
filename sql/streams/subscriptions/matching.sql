-- Paths of living streams that begin with $1, behind $2; up to $3.
select path
from {schema}.streams
where path >= $1 and path > $2 and starts_with(path, $1) and state = 0 and (expires_at is null or expires_at > now())
order by path
limit $3
