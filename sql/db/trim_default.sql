-- Deletes rows of the default partition that are beyond the retention.
with gone as (
    delete from {schema}.requests_default where id < $1 returning id
)
insert into {schema}.ingest_removed (cause, from_id, to_id)
select 'retention', '00000000-0000-0000-0000-000000000000', $1 where exists (select from gone)
