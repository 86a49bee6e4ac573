-- The newest migration of this database; no row if there is none.
select max(version) from {schema}.tidegate_migrations
