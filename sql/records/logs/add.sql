-- Adds entries. One that is there was added by an attempt whose answer was lost.
insert into {schema}.request_logs (id, created, level, message, data)
select * from unnest($1::text[], $2::timestamptz[], $3::integer[], $4::text[], $5::jsonb[])
on conflict (id) do nothing
