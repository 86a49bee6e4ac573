-- Each applied migration, with the checksum of its text.
select version, checksum::text from {schema}.tidegate_migrations order by version
