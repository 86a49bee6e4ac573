-- Those of the topics $1 whose tables are watched.
select topic from {schema}.watched_tables where topic = any($1)
