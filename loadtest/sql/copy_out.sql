copy (select id, trace_id, payload, body, content_type, received_at from requests where id >= '{lowest}') to stdout (format binary)
