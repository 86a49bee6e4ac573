-- Redriven overloads are accepted anew: they get ids and receipts of a journal of their own.
select journal from {schema}.ingest_journals where kind = 'redrive' for no key update
