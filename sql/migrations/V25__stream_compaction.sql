-- Compaction of streams by key (Stream-Compaction): messages that later ones replace are removed.

-- `compacted_to` is the end of the last compaction that went through the stream, `compacted_bytes` what it left. `compacts_until` keeps other nodes from
-- the same work; they may begin after that time.
alter table {schema}.streams
    add column compacted_to bigint not null default 0,
    add column compacted_bytes bigint not null default 0,
    add column compacts_until timestamptz;

-- Of a chunk that was compacted `bytes` are those of the messages that are left: `message_ends` are their ends as before, in offsets from `first`, and
-- `byte_ends` their ends in `bytes`. Where the two differ by more than before, messages were removed. Null: none were.
alter table {schema}.stream_chunks add column byte_ends integer[];

-- The messages of living streams, as before: with those that a compaction left.
create or replace view {schema}.streams_messages as
select s.path, '0000000000000000_' || lpad(content.first::text, 16, '0') as "offset", content.message,
    case when s.is_json then {schema}.tidegate_stream_json(content.message) end as json, content.at
from (
    select id, path, tail, kept_from, source, fork_end, lower(split_part(content_type, ';', 1)) ~ '^\s*application/json\s*$' as is_json
    from {schema}.streams
    where state = 0 and (expires_at is null or expires_at > statement_timestamp())
) as s
cross join lateral (
    -- The stream, and those that it was forked from, each with the range of offsets that it has of them.
    with recursive part as (
        select s.id, s.source, coalesce(s.fork_end, 0) as first, s.tail as next
        union all
        select above.id, above.source, coalesce(above.fork_end, 0), least(part.first, part.next)
        from part join {schema}.streams above on above.id = part.source
    )
    select id, greatest(first, s.kept_from) as first, next from part
) as part
cross join lateral (
    select c.first, c.at, c.append_ends, c.append_times, c.byte_ends,
        coalesce(case when s.is_json then c.message_ends end, c.append_ends, array[(c.next - c.first)::integer]) as ends,
        -- Read once, and not for each message.
        c.bytes || ''::bytea as bytes
    from {schema}.stream_chunks c
    where c.stream = part.id and c.next > part.first and c.first < part.next
    offset 0
) as chunk
cross join lateral (
    select chunk.first + place.first as first,
        coalesce(chunk.append_times[width_bucket(place.next - 1, chunk.append_ends) + 1], chunk.at) as at,
        -- Of the last append that a fork shares it may have a part.
        {schema}.tidegate_stream_text(substring(
            chunk.bytes from place.byte + 1
            for (least(chunk.first + place.next, part.next) - chunk.first)::integer - place.first - case when s.is_json then 1 else 0 end
        )) as message
    from (
        -- Where messages were removed, one begins behind the end of the one before.
        select ends.next - coalesce(ends.byte_end, ends.next) + coalesce(lag(coalesce(ends.byte_end, ends.next)) over (order by ends.place), 0) as first,
            coalesce(lag(coalesce(ends.byte_end, ends.next)) over (order by ends.place), 0) as byte, ends.next
        from unnest(chunk.ends, chunk.byte_ends) with ordinality as ends (next, byte_end, place)
    ) as place
    where chunk.first + place.first >= part.first and chunk.first + place.first < part.next
) as content;

