-- Needs an exclusive lock on requests for a moment. A wait for it would delay every COPY behind it, so the statement gives up quickly
-- and is retried.
begin isolation level read committed;
{presets};
set local lock_timeout = '200ms';
drop table {schema}.{partition};
insert into {schema}.ingest_removed (cause, from_id, to_id) values ('retention', '{from}', '{to}');
commit;
