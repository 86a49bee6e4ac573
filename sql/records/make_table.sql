-- The table of one collection. Most lists are sorted by `created`, with the id as the tie-breaker within a millisecond. Users can add
-- indexes on expressions of `data`, such as ((data -> 'name')).
create table {table} (
    id text collate "C" primary key check (id ~ '^[a-z0-9]{15}$'),
    version bigint not null,
    created timestamptz not null,
    updated timestamptz not null,
    data jsonb not null check (jsonb_typeof(data) = 'object')
);
create index on {table} (created, id);
comment on table {table} is 'records of the collection {name}';
