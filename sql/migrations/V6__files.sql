-- Files that users upload. Their bytes are not here: they are in DATA_DIR/files, named by their SHA-256, so that the same
-- content is there once, whoever has it and however often.
create table {schema}.files (
    id uuid primary key default gen_random_uuid(),
    -- What the file was called where it came from. It is shown and never becomes a path.
    filename text not null,
    -- Below DATA_DIR/files, for people who look there; the service goes by sha256.
    file_path text not null,
    size bigint not null check (size >= 0),
    mime_type text not null,
    uploaded_at timestamptz not null default now(),
    -- Its lines were imported.
    processed boolean not null default false,
    -- Null: nobody in particular.
    owner uuid references {schema}.users on delete cascade,
    sha256 bytea not null check (length(sha256) = 32)
);
-- Lists, newest first, and what an owner holds. What is nobody's has the key of all zeros: only an equality leaves the
-- order of the rest to the index, and `is null` is none. The columns included let the sum be read from the index alone.
create index files_owner on {schema}.files
    (coalesce(owner, '00000000-0000-0000-0000-000000000000'), uploaded_at desc, id desc) include (owner, size);
-- A user who is deleted takes his files along.
create index files_user on {schema}.files (owner) where owner is not null;
-- Whether a content is anybody's still.
create index files_sha256 on {schema}.files (sha256);

-- Which database a folder of contents belongs to: one that finds another's folder must not clear away what none of its
-- own rows names. One row.
create table {schema}.file_store (
    id uuid not null default gen_random_uuid()
);
insert into {schema}.file_store default values;
