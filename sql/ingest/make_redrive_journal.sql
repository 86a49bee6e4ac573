insert into {schema}.ingest_journals (journal, tag, kind) values ($1, $2, 'redrive') on conflict do nothing
