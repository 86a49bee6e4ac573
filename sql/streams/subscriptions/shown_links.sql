-- The links of the subscription $1, up to $2; those by its pattern to streams that are gone are not shown.
select l.path, l.is_explicit, t.id as stream, coalesce(t.tail, 0) as tail, {acked} as acked
from {living}
where l.subscription = $1 and (l.is_explicit or t.id is not null)
order by l.path
limit $2
