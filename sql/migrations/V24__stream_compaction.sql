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
