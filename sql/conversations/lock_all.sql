-- As lock.sql, for several conversations ($1), which are waited for in one order whoever asks: so nobody waits in a circle.
select pg_advisory_xact_lock(key)
from (
    select hashtextextended('conversation:' || id, 0) as key from unnest($1::uuid[]) as asked (id) order by key
) as keys
