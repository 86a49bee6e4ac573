-- What makes the path from a journal into `requests` exactly-once, and lets anyone recount it.
--
-- An event's id is a UUIDv7 whose random part names its journal (a tag of 34 bits) and its sequence in it (40 bits, from 0).
-- So the events of a journal, or of a stretch of it, are counted by id, without a further index.

-- The five bytes of an id that name its journal (the version and variant bits among them are the same in all ids).
create function {schema}.ingest_tag(id uuid) returns bytea
    language sql immutable strict parallel safe
    as $$ select substring(uuid_send(id) from 7 for 5) $$;

-- The sequence of an event in its journal, from 0.
create function {schema}.ingest_sequence(id uuid) returns bigint
    language sql immutable strict parallel safe
    as $$ select ('x' || encode(substring(uuid_send(id) from 12 for 5), 'hex'))::bit(40)::bigint $$;

-- One row a journal. A journal is written by one process, from its start to its end.
-- `fence` counts the transactions after which a journal may be trimmed; one that is lower than a writer remembers tells
-- that the database went back in time. `kind` is `journal`, or `redrive`: the one that overloads get their ids from when
-- an operator has them stored after all. Whoever changes several receipts of a journal locks its row first.
create table {schema}.ingest_journals (
    journal uuid primary key,
    tag bytea not null unique,
    kind text not null default 'journal' check (kind in ('journal', 'redrive')),
    fence bigint not null default 0,
    registered_at timestamptz not null default now()
);
create unique index ingest_journals_redrive on {schema}.ingest_journals (kind) where kind = 'redrive';

-- One row a writer connection. Each batch's transaction locks its lane's row at the epoch it knows. Whoever wants to know
-- how a transaction ended that it lost sight of raises the epoch: that waits for it, and keeps any older one out.
create table {schema}.ingest_lanes (
    journal uuid not null references {schema}.ingest_journals on delete cascade,
    lane integer not null,
    epoch bigint not null,
    primary key (journal, lane)
) with (fillfactor = 50);

-- Receipts add up: each sequence of a range is in exactly one of these states. Ranges of a journal do not overlap.
alter table {schema}.ingest_receipts
    add foreign key (journal) references {schema}.ingest_journals,
    add check (committed + duplicates + dead + discarded + quarantined = last - first + 1),
    add check (committed >= 0 and duplicates >= 0 and dead >= 0 and discarded >= 0 and quarantined >= 0);

-- Keys of producers that retry (Idempotency-Key, ce-source with ce-id, id_field): a hash each, kept for
-- IDEMPOTENCY_WINDOW_S. Events without a key leave nothing here.
create table {schema}.ingest_keys (
    key uuid primary key,
    id uuid not null,
    seen_at timestamptz not null
);
-- Rows come in the order of time, so blocks of them are told apart by next to nothing.
create index ingest_keys_seen_at on {schema}.ingest_keys using brin (seen_at);

-- Events that were not stored since their key was there already: `first_id` is the event that was stored.
create table {schema}.ingest_duplicates (
    id uuid primary key,
    first_id uuid not null,
    seen_at timestamptz not null
);
create index ingest_duplicates_seen_at on {schema}.ingest_duplicates using brin (seen_at);

-- What was taken out of `requests` after it was stored, so that a recount can tell it from a loss. Either a journal's
-- sequences (`tag`, `first` to `last`), or everything with an id from `from_id` to `to_id`.
create table {schema}.ingest_removed (
    at timestamptz not null default clock_timestamp(),
    cause text not null check (cause in ('delete', 'truncate', 'retention')),
    tag bytea,
    first bigint,
    last bigint,
    from_id uuid,
    to_id uuid,
    check ((tag is null) = (from_id is not null))
);

-- Runs once a statement, and only for `delete` and `truncate`: COPY does not pay for it.
create function {schema}.ingest_note_delete() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    as $$
begin
    insert into {schema}.ingest_removed (cause, tag, first, last)
    select 'delete', tag, min(sequence), max(sequence)
    from (
        select tag, sequence, sequence - row_number() over (partition by tag order by sequence) as island
        from (
            select {schema}.ingest_tag(id) as tag, {schema}.ingest_sequence(id) as sequence from gone
        ) as ids
    ) as islands
    group by tag, island;
    return null;
end
$$;

create function {schema}.ingest_note_truncate() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    as $$
begin
    insert into {schema}.ingest_removed (cause, from_id, to_id)
    select 'truncate', '00000000-0000-0000-0000-000000000000', id
    from {schema}.requests order by id desc limit 1;
    return null;
end
$$;

create trigger ingest_note_delete after delete on {schema}.requests
    referencing old table as gone for each statement execute function {schema}.ingest_note_delete();
create trigger ingest_note_truncate before truncate on {schema}.requests
    for each statement execute function {schema}.ingest_note_truncate();

-- Dead letters are listed by time, newest first, and redriven by reason.
create index dead_letters_failed_at on {schema}.dead_letters (failed_at, id);
