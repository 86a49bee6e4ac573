copy drain_floor (id, trace_id, payload, body, content_type, received_at) from stdin (format binary)
