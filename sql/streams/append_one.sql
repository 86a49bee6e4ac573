-- As append.sql, to one stream: most of that statement's time is its preparation, and this one takes about three quarters of it. $1: its id. $2 to $5: the
-- length, the bytes, and the ends of appends and messages, as arrays in text. $6: the batch.
--
-- The settings are read once, before the row is locked.
with grown as (
    update {schema}.streams s
    set tail = s.tail + $2,
        expires_at = case when s.ttl_s is null then s.expires_at else now() + s.ttl_s * interval '1 second' end
    where s.id = $1 and s.state = 0 and not s.is_closed and (s.expires_at is null or s.expires_at > now())
        and (select set_config('synchronous_commit', 'on', true) = 'on' and set_config('lock_timeout', '50ms', true) = '50ms')
    returning s.id, s.tail - $2 as first, s.tail
), stored as (
    insert into {schema}.stream_chunks (stream, first, next, batch, append_ends, message_ends, bytes)
    select id, first, tail, $6, $4::text::integer[], $5::text::integer[], $3 from grown
    returning 1
)
select id, first from grown
where (
    select case when stored.count = 1 then true else {schema}.expect_rows('stream_chunks', 1, stored.count) end
    from (select count(*) from stored) as stored
)
