-- Records: JSON objects in collections, and the feed of their changes.

-- A collection's records are in a table of its own, records_<id>: its indexes, constraints and locks are its own too,
-- and none of them slows down a write to another collection. sql/records/make_table.sql makes it.
create table {schema}.collections (
    id integer generated always as identity primary key,
    name text collate "C" not null unique check (name ~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$'),
    created timestamptz not null default now()
);

-- Numbers changes, and with them the versions of records: a version is never given out twice, so that an id that is
-- deleted and made again never has the ETag that it had before.
create sequence {schema}.change_numbers;

-- One row a change, written in the transaction that makes it. `data` is what the record holds after it, or held before
-- it was deleted.
--
-- The order is (xid, number). Transactions commit in another order than they begin, so whoever follows the feed takes only
-- rows of which no older transaction can still commit: xid < pg_snapshot_xmin(pg_current_snapshot()). Such rows are
-- complete: nothing is ever added before one of them. No lock is needed for that.
--
-- For one record the order is right if whoever changes it holds its advisory lock (sql/records/lock_ids.sql) before the
-- transaction has an xid: who waits for such a lock has none yet, which is not so for who waits for a row's.
create table {schema}.changes (
    xid xid8 not null default pg_current_xact_id(),
    number bigint not null,
    topic text collate "C" not null,
    record text collate "C" not null,
    action text collate "C" not null check (action in ('create', 'update', 'delete')),
    created timestamptz not null,
    updated timestamptz not null,
    data jsonb not null,
    at timestamptz not null default now(),
    primary key (xid, number)
);

-- Payloads too large for a row of jsonb: the bytes of a JSON object, cut into parts, so that neither side ever holds
-- more than a part of it for the other.
create table {schema}.large_payloads (
    collection integer not null references {schema}.collections on delete cascade,
    id text collate "C" not null,
    created timestamptz not null,
    bytes bigint not null,
    parts integer not null,
    primary key (collection, id)
);
create table {schema}.large_payload_parts (
    collection integer not null,
    id text collate "C" not null,
    part integer not null,
    content bytea not null,
    primary key (collection, id, part),
    foreign key (collection, id) references {schema}.large_payloads on delete cascade
);
-- Compressing each part as it is stored would cost more time than its transport.
alter table {schema}.large_payload_parts alter column content set storage external;
