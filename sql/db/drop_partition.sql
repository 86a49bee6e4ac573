-- Needs requests to itself for a moment. Waiting for that would hold up every COPY behind it, so it does not wait long
-- and is tried again.
begin isolation level read committed;
{presets};
set local lock_timeout = '200ms';
drop table {schema}.{partition};
insert into {schema}.ingest_removed (cause, from_id, to_id) values ('retention', '{from}', '{to}');
commit;
