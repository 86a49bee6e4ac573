-- The parsed select, and what `batch` is in it.
select ev_action::text as tree, 'pg_temp.batch'::regclass::oid as batch
from pg_rewrite
where ev_class = 'pg_temp.tidegate_route_view'::regclass
