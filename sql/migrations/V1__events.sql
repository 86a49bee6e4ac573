-- The event path: what was accepted, what could not be stored, and what is known of each batch.

-- `payload` holds what Postgres can keep as jsonb; everything else is in `body`, byte for byte as it came.
-- `id` is a UUIDv7, so its order is the order of time: that is what partitions are cut by.
-- Partitions cost COPY a few percent, so the first migration leaves the choice (PARTITIONING) in tidegate_choices.
-- There is no further index: each one costs COPY a large part of its speed. Users may add what they need.
do $$
declare
    partitioned boolean := (select value from {schema}.tidegate_choices where name = 'partitioning') = 'day';
begin
    execute 'create table {schema}.requests (
        id uuid primary key,
        trace_id text not null,
        payload jsonb,
        body bytea,
        content_type text,
        received_at timestamptz not null
    )' || case when partitioned then ' partition by range (id)' else '' end;
    if partitioned then
        -- A net: takes what no partition was made for in time.
        create table {schema}.requests_default partition of {schema}.requests default;
    end if;
end
$$;

-- `error` begins with the SQLSTATE where Postgres refused the row; `reason` is `overload` or `rejected`.
create table {schema}.dead_letters (
    id uuid primary key,
    trace_id text not null,
    payload jsonb,
    body bytea,
    content_type text,
    received_at timestamptz not null,
    error text not null,
    reason text not null,
    attempts integer not null,
    failed_at timestamptz not null
);

-- One row a batch, written in the COPY's own transaction: the sequences `first` to `last` of a journal are settled.
create table {schema}.ingest_receipts (
    journal uuid not null,
    first bigint not null,
    last bigint not null,
    committed bigint not null default 0,
    duplicates bigint not null default 0,
    dead bigint not null default 0,
    discarded bigint not null default 0,
    quarantined bigint not null default 0,
    primary key (journal, first),
    check (first <= last)
);
