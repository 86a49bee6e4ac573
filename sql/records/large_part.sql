select content from {schema}.large_payload_parts where collection = $1 and id = $2 and part = $3
