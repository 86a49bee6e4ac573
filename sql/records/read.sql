-- With the position of the snapshot that it reads (sql/realtime/now.sql).
select id, version, created, updated, data::text as data, now.* from {table} cross join ({now}) as now where id = any($1)
