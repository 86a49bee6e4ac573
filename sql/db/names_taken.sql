-- Which of the names that migrations use are taken in the schema $1: of relations ($2; a type shares their namespace, as each table
-- creates one) and of functions ($3). $4: a pattern of names that are created later, such as the tables of days; null: none.
select case relkind when 'v' then 'a view ' when 'm' then 'a materialized view ' when 'i' then 'an index ' when 'S' then 'a sequence '
    when 'c' then 'a type ' else 'a table ' end || relname as name
from pg_class
where relnamespace = to_regnamespace(quote_ident($1))
  and (relname = any($2) or coalesce(relname ~ $4, false))
union all
select 'a type ' || typname
from pg_type
where typnamespace = to_regnamespace(quote_ident($1)) and typrelid = 0 and typelem = 0 and typname = any($2)
union all
select distinct 'a function ' || proname
from pg_proc
where pronamespace = to_regnamespace(quote_ident($1)) and proname = any($3)
order by 1
