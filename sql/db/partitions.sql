-- The day partitions of requests, oldest first.
select child.relname::text
from pg_inherits
join pg_class child on child.oid = inhrelid
where inhparent = to_regclass('{schema}.requests')
  and child.relname ~ '^requests_p[0-9]{8}$'
order by child.relname
