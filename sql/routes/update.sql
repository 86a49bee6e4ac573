-- Another definition of a route, under the lock of its row.
update {schema}.event_routes
set target_schema = $2, target_table = $3, statement = $4, target_columns = $5, key_columns = $6, on_conflict = $7, run_as = $8, strict = $9,
    serial = $10, whole = $11, version = version + 1, updated_at = now()
where id = $1
