select created, bytes, parts from {schema}.large_payloads where collection = $1 and id = $2
