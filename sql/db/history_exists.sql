select to_regclass('{schema}.tidegate_migrations') is not null
