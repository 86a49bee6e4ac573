-- Records an applied migration, in refinery's form. An existing row's checksum is brought to its newer form, which leaves out the schema's
-- name.
insert into {schema}.tidegate_migrations (version, name, applied_on, checksum)
values ($1, $2, to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), $3)
on conflict (version) do update set checksum = excluded.checksum
