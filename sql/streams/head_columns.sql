-- The columns of a stream `s` but for its status.
s.id, s.path, s.content_type, s.tail, s.kept_from, s.is_closed, s.ttl_s, s.source, s.fork_end, s.fork_source, s.fork_offset, s.fork_sub_offset,
    s.inherits_lifetime, s.retention_age_s, s.retention_bytes, s.compacts_by_key, s.generation,
    (extract(epoch from s.expires_at) * 1000000)::bigint as expires_us,
    (extract(epoch from s.expires_at - now()) * 1000000)::bigint as left_us,
    (extract(epoch from s.created_at) * 1000000)::bigint as created_us
