-- One day's partition. It is filled and indexed on its own and attached at the end: that needs a far weaker lock on
-- requests than `create table … partition of`, and the writer continues. Rows that the default partition has taken in the
-- meantime are moved, with all their columns, those of a user too; generated columns are generated again.
begin isolation level read committed;
{presets};
set local lock_timeout = '500ms';
create table {schema}.{partition} (
    like {schema}.requests including defaults including constraints including generated including storage including compression
);
alter table {schema}.{partition} add primary key (id);
with moved as (
    delete from {schema}.requests_default where id >= '{from}' and id < '{to}' returning {columns}
)
insert into {schema}.{partition} ({columns}) select {columns} from moved;
create trigger ingest_note_partition_truncate before truncate on {schema}.{partition}
    for each statement execute function {schema}.ingest_note_partition_truncate();
create trigger ingest_note_delete after delete on {schema}.{partition} referencing old table as gone
    for each statement execute function {schema}.ingest_note_delete();
-- A day that had a partition before: an operator dropped or detached it, with the rows that it held.
with known as (
    insert into {schema}.ingest_partitions (from_id) values ('{from}') on conflict do nothing returning from_id
)
insert into {schema}.ingest_removed (cause, from_id, to_id)
select 'partition', '{from}',
    least('{to}', (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid)
where not exists (select from known);
alter table {schema}.requests attach partition {schema}.{partition} for values from ('{from}') to ('{to}');
commit;
