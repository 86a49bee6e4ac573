-- What a build left behind that was cut short: of no use, and kept up to date all the same.
drop index concurrently if exists {schema}."{table}_trace_id"
