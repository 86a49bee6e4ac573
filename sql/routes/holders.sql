-- What holds a lock of requests, or of a partition, that keeps a trigger from being made.
select string_agg(distinct case
        when a.backend_type = 'autovacuum worker' or a.query ~* '^\s*(vacuum|analyze)' then 'a vacuum'
        when a.query ~* '^(\s|--[^\n]*\n)*copy\s' then 'a COPY'
        else coalesce(nullif(a.state, ''), a.backend_type)
    end || ' (process ' || a.pid || ')', ', ')
from pg_locks l
join pg_stat_activity a using (pid)
where l.locktype = 'relation' and l.relation = '{schema}.requests'::regclass and l.granted and l.pid <> pg_backend_pid()
    and l.database = (select oid from pg_database where datname = current_database())
    and l.mode not in ('AccessShareLock', 'RowShareLock')
