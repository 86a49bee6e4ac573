-- Beside the writer, which goes on meanwhile.
create index concurrently if not exists "{table}_trace_id" on {schema}."{table}" (trace_id)
