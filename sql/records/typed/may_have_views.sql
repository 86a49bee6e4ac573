-- The schema of the views of collections, $1: whether it is there, and whether the role may make views in it, or the schema itself.
select found.is_there, case
    when found.is_there then has_schema_privilege($1, 'create')
    else has_database_privilege(current_database(), 'create')
end as may
from (select exists (select from pg_catalog.pg_namespace where nspname = $1) as is_there) as found
