-- Imports: files whose lines become events, conversations and messages.

-- One a file. What it was asked for is kept, so that a restart goes on as it began: its parts end where `part_bytes` says,
-- and its ids and times are made of `started_us`, microseconds of Unix time, and the line.
create table {schema}.imports (
    file_id uuid primary key references {schema}.files on delete cascade,
    state text not null default 'running' check (state in ('running', 'done', 'failed')),
    kind text check (kind in ('event', 'conversation', 'message')),
    mapping jsonb not null,
    allowed text[] not null,
    part_bytes bigint not null,
    started_us bigint not null,
    finished timestamptz,
    lines bigint not null default 0,
    stored bigint not null default 0,
    rejected bigint not null default 0,
    error text
);
create index imports_running on {schema}.imports (started_us) where state = 'running';

-- A part's row is written in the transaction that stores its lines, before them: so a second attempt waits for the first
-- one, and a part is there once or not at all. They are deleted when the import is done.
create table {schema}.import_parts (
    file_id uuid not null references {schema}.imports on delete cascade,
    number integer not null,
    first_line bigint not null,
    lines bigint not null,
    bytes bigint not null,
    end_offset bigint not null,
    stored bigint not null default 0,
    rejected bigint not null default 0,
    primary key (file_id, number)
);

-- Lines that were not stored, the first of each import.
create table {schema}.import_rejected (
    file_id uuid not null references {schema}.imports on delete cascade,
    line bigint not null,
    reason text not null,
    primary key (file_id, line)
);
