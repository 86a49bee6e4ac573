-- One import per file, however often it is requested. Its parts have the size that is stored, now and after a restart.
insert into {schema}.imports (file_id, kind, mapping, allowed, part_bytes, started_us)
values ($1, $2, $3::text::jsonb, $4, $5, $6)
on conflict (file_id) do nothing
returning part_bytes
