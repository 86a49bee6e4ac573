-- All collections that every face serves, by name, and about how many records they have: null before Postgres has counted them (vacuum, analyze).
select collections.name, case when class.reltuples >= 0 then class.reltuples::bigint end as records
from {schema}.collections
left join pg_class class on class.oid = to_regclass('{schema}.records_' || collections.id)
where not collections.private
order by collections.name
