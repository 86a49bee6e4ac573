-- The newest migration that this database has had; no row where it has had none.
select max(version) from {schema}.tidegate_migrations
