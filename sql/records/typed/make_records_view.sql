-- The records of a view collection. Other views may read it, so it is replaced: its columns are always these of a table of records.
create or replace view {table} as {query}
