-- The parsed select, what `batch` is in it, and the number of its column `id`.
select ev_action::text as tree, 'pg_temp.batch'::regclass::oid as batch,
    (select attnum::int4 from pg_attribute where attrelid = 'pg_temp.batch'::regclass and attname = 'id') as id_column
from pg_rewrite
where ev_class = 'pg_temp.tidegate_route_view'::regclass
