-- As lock.sql, for several conversations ($1). The locks are always taken in one order, so there is no deadlock.
select pg_advisory_xact_lock(key)
from (
    select hashtextextended('conversation:' || id, 0) as key from unnest($1::uuid[]) as asked (id) order by key
) as keys
