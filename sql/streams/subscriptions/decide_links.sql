-- The time, and the links of the subscription $1 that a decision sees: those to the streams $2 first, then those with pending data, then others if
-- $3; up to $4. Runs after the subscription is locked, in a snapshot of its own, so that it sees each append whose node found the
-- subscription busy. The time is one of after the lock, too.
select now.us as now_us, found.*
from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint as us) as now
left join lateral (
    select l.path, l.is_explicit, t.id as stream, coalesce(t.tail, 0) as tail, {acked} as acked
    from {living}
    where l.subscription = $1 and ($3 or coalesce(t.tail, 0) > {acked} or l.path = any($2))
    order by l.path = any($2) desc, coalesce(t.tail, 0) > {acked} desc, l.path
    limit $4
) as found on true
