-- Postgres refuses it again.
update {schema}.dead_letters set error = $2, attempts = attempts + 1, failed_at = now() where id = $1
