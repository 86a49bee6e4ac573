select exists (select from pg_partitioned_table where partrelid = to_regclass('{schema}.requests'))
