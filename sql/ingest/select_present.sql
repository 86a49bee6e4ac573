-- Which of these events are already in a table: recovered before, or never lost.
select wanted.id
from unnest($1::uuid[]) as wanted (id)
where exists (select from {schema}.requests where id = wanted.id)
   or exists (select from {schema}.dead_letters where id = wanted.id)
   or exists (select from {schema}.ingest_duplicates where id = wanted.id)
