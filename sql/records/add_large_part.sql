insert into {schema}.large_payload_parts (collection, id, part, content) values ($1, $2, $3, $4)
