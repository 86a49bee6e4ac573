-- One day's partition. It is filled and indexed on its own and attached at the end: that needs a far weaker lock on
-- requests than `create table … partition of`, and the writer goes on. Rows that the default partition took in the
-- meantime move over.
begin;
set local lock_timeout = '500ms';
create table {schema}.{partition} (like {schema}.requests including defaults including constraints including storage including compression);
alter table {schema}.{partition} add primary key (id);
with moved as (
    delete from {schema}.requests_default where id >= '{from}' and id < '{to}' returning *
)
insert into {schema}.{partition} select * from moved;
alter table {schema}.requests attach partition {schema}.{partition} for values from ('{from}') to ('{to}');
commit;
