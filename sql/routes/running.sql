-- The route that a COPY is in, $1 milliseconds after its beginning: routes run in the order of their triggers' names, and each takes its lock
-- first. So a function of a user is found that goes on when Postgres cancels it.
select id from (
    select r.id, row_number() over (partition by a.pid order by format('tidegate_route_%s', r.id) collate "C" desc) as place, a.query_start
    from {schema}.event_routes r
    join pg_locks l on l.locktype = 'advisory' and l.objsubid = 1 and l.granted
        and (l.classid::bigint << 32) | l.objid::bigint = {schema}.tidegate_route_lock(r.id)
    join pg_stat_activity a using (pid)
    where l.database = (select oid from pg_database where datname = current_database())
        and a.state = 'active' and a.query ~* '^(\s|--[^\n]*\n)*copy\s' and a.query_start < clock_timestamp() - $1 * interval '1 millisecond'
) running
where place = 1
order by query_start
limit 1
