-- The columns of requests that a row is given, quoted and in order, without generated columns.
select string_agg(quote_ident(attname), ', ' order by attnum)
from pg_attribute
where attrelid = to_regclass('{schema}.requests') and attnum > 0 and not attisdropped and attgenerated = ''
