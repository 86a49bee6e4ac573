-- Names this server as the origin of the feed's positions. Those of another one, from which a dump or a backup came, are forgotten.
with here as (
    select (select system_identifier::text from pg_control_system()) || '.'
        || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as origin
), foreign_floor as (
    select from {schema}.feed_floor f, here where f.origin <> here.origin
), named as (
    update {schema}.feed_floor f
    set origin = here.origin, seen = case when exists (select from foreign_floor) then '1:1:' else f.seen end
    from here
    where f.origin is distinct from here.origin
)
delete from {schema}.feed_positions where exists (select from foreign_floor)
