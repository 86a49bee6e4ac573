-- The new states of producers of locked streams: streams, producers, epochs and sequence numbers. None is there twice.
insert into {schema}.stream_producers as p (stream, producer, epoch, seq)
select * from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[]) as kept (stream, producer, epoch, seq)
on conflict (stream, producer) do update set epoch = excluded.epoch, seq = excluded.seq, at = now()
