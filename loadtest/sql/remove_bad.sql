-- A partition that was created meanwhile has a constraint of its own.
alter table requests drop constraint if exists loadtest_bad;
do $$
declare
    partition regclass;
begin
    for partition in
        select conrelid
        from pg_constraint
        join pg_inherits on inhrelid = conrelid and inhparent = 'requests'::regclass
        where conname = 'loadtest_bad'
    loop
        execute format('alter table %s drop constraint loadtest_bad', partition);
    end loop;
end
$$
