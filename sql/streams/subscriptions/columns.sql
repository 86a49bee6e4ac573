s.id, s.number, s.webhook_url, s.pattern, s.wake_stream, s.lease_ms, s.description,
    (extract(epoch from s.created_at) * 1000000)::bigint as created_us, s.generation, s.wake_id, s.phase,
    (extract(epoch from s.due_at) * 1000000)::bigint as due_us, s.holder, s.failures, s.failure
