-- Appends to streams that nothing is known against: one statement for a batch, and a commit with it. $1: ids. $2: bytes by which each grows. $3: its
-- bytes. $4 and $5: the ends of its appends and messages, as arrays in text; null: one. $6: the batch. A stream that is closed, deleted or
-- expired has no row in the answer.
--
-- Rows are locked in the order of their ids, so that two batches never wait for each other in a circle. After a wait the locked row is the newest
-- one, and `tail` of the update too; offsets come from there. The settings are for this statement's transaction; a locked row
-- is waited for briefly, then the batch goes another way. `is_set` is true: it makes the settings come first.
--
-- `(select $1)` hides the lengths of arrays from the planner. Where it sees them, plans for one batch look cheaper than one for all, and Postgres
-- would plan each execution anew, which takes longer than the statement.
with settings as materialized (
    select set_config('synchronous_commit', 'on', true) = 'on' and set_config('lock_timeout', '50ms', true) = '50ms' as is_set
), wanted as materialized (
    select * from unnest(
        (select $1::bigint[]), (select $2::bigint[]), (select $3::bytea[]), (select $4::text[]), (select $5::text[])
    )
        as wanted (id, length, bytes, append_ends, message_ends)
), locked as materialized (
    select s.id from {schema}.streams s
    where s.id = any((select $1::bigint[])::bigint[]) and s.state = 0 and not s.is_closed and (s.expires_at is null or s.expires_at > now())
        and (select is_set from settings)
    order by s.id
    for no key update
), grown as (
    update {schema}.streams s
    set tail = s.tail + wanted.length,
        expires_at = case when s.ttl_s is null then s.expires_at else now() + s.ttl_s * interval '1 second' end
    from locked join wanted using (id)
    where s.id = locked.id
    returning s.id, s.tail - wanted.length as first, s.tail, wanted.bytes, wanted.append_ends, wanted.message_ends
), stored as (
    insert into {schema}.stream_chunks (stream, first, next, batch, append_ends, message_ends, bytes)
    select id, first, tail, $6, append_ends::integer[], message_ends::integer[], bytes from grown
    returning 1
)
select id, first from grown
where (
    select case when stored.count = grown.count then true else {schema}.expect_rows('stream_chunks', grown.count, stored.count) end
    from (select count(*) from grown) as grown, (select count(*) from stored) as stored
)
