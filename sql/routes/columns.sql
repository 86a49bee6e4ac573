-- The columns of the table $1, in order. `type` is without its modifier.
select attname, quote_ident(attname) as quoted, format_type(atttypid, null) as type, attgenerated <> '' or attidentity = 'a' as is_generated,
    attnotnull and not atthasdef and attidentity = '' as is_required
from pg_attribute
where attrelid = $1 and attnum > 0 and not attisdropped
order by attnum
