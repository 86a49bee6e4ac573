-- Chunks of locked streams. $1: streams; $2 and $3: offsets; $4: bytes; $5 and $6: ends of appends and of messages, as arrays in text; $7: the
-- batch.
with stored as (
    insert into {schema}.stream_chunks (stream, first, next, batch, append_ends, message_ends, bytes)
    select stream, first, next, $7, append_ends::integer[], message_ends::integer[], bytes
    from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[], $6::text[])
        as added (stream, first, next, bytes, append_ends, message_ends)
    returning 1
)
select {schema}.expect_rows('stream_chunks', cardinality($1)::bigint, count(*)) from stored
