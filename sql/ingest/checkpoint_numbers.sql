-- The journals' checkpoint numbers (`fence`), without raising them.
select journal, fence from {schema}.ingest_journals where journal = any($1)
