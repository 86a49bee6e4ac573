-- Registers a journal with this database. Its lanes come with the first batch of each.
insert into {schema}.ingest_journals (journal, tag) values ($1, $2) on conflict (journal) do nothing
