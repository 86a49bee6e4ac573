-- The service's existing objects that the role ($2) does not own, with the statements that make it their owner: tables and views ($3), sequences ($4)
-- and functions ($5, and those of the triggers of watched tables) of the schema $1. $6: a pattern of
-- tables that are created later. The sequences of identity columns, indexes and triggers follow their tables.
select format('alter table %I.%I owner to %I', $1, relname, $2) as statement
from pg_class
where relnamespace = to_regnamespace(quote_ident($1)) and relkind in ('r', 'p', 'v')
  and pg_get_userbyid(relowner) <> $2
  and (relname = any($3) or relname ~ $6)
union all
select format('alter sequence %I.%I owner to %I', $1, relname, $2)
from pg_class
where relnamespace = to_regnamespace(quote_ident($1)) and relkind = 'S'
  and pg_get_userbyid(relowner) <> $2 and relname = any($4)
union all
select format('alter function %s owner to %I', oid::regprocedure, $2)
from pg_proc
where pronamespace = to_regnamespace(quote_ident($1)) and pg_get_userbyid(proowner) <> $2
  and (proname = any($5) or proname ~ '^tidegate_watch_[0-9]+_')
order by 1
