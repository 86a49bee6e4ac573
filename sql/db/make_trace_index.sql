-- Built while the writer continues.
create index concurrently if not exists "{table}_trace_id" on {schema}."{table}" (trace_id)
