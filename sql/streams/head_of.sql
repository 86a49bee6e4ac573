-- A stream by its id ($1). The columns are in sql/streams/head.sql.
select {head} from {schema}.streams s where s.id = $1
