-- Of the functions $1 those that no select of a route may call: they change the session, or are the service's own ($2: its schema).
select oid::regprocedure::text
from pg_proc
where oid = any($1) and (
    pronamespace = 'pg_catalog'::regnamespace and proname in ('set_config', 'pg_advisory_unlock_all', 'pg_terminate_backend', 'pg_cancel_backend')
    or pronamespace = to_regnamespace(quote_ident($2)) and proname ~ '^(tidegate|expect|ingest_note)_'
)
limit 1
