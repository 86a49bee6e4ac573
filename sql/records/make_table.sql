-- The table of one collection. `created` is what lists are sorted by most, with the id to tell apart what came in the same
-- millisecond; whoever asks for more makes indexes on expressions of `data`, such as ((data -> 'name')).
create table {table} (
    id text collate "C" primary key check (id ~ '^[a-z0-9]{15}$'),
    version bigint not null,
    created timestamptz not null,
    updated timestamptz not null,
    data jsonb not null check (jsonb_typeof(data) = 'object')
);
create index on {table} (created, id);
comment on table {table} is 'records of the collection {name}';
