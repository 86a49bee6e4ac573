-- The new states of locked streams: ids, ends, whether closed, Stream-Seq, and the producers' requests that closed them. A stream with a TTL lives on.
update {schema}.streams s
set tail = changed.tail, is_closed = changed.is_closed, seq = changed.seq, closed_by_id = changed.closed_by_id,
    closed_by_epoch = changed.closed_by_epoch, closed_by_seq = changed.closed_by_seq,
    expires_at = case when s.ttl_s is null then s.expires_at else now() + s.ttl_s * interval '1 second' end
from unnest($1::bigint[], $2::bigint[], $3::boolean[], $4::bytea[], $5::text[], $6::bigint[], $7::bigint[])
    as changed (id, tail, is_closed, seq, closed_by_id, closed_by_epoch, closed_by_seq)
where s.id = changed.id
