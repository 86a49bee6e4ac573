-- Who may use what: users, their sessions, keys of producers, and what was taken back.

-- A user signs in by email and password, or is vouched for by an issuer of tokens as (issuer, subject). An email is how
-- somebody is addressed, never what he may do: it is nobody's proof, and unique only among those who have a password.
create table {schema}.users (
    id uuid primary key default gen_random_uuid(),
    email text,
    password_hash text,
    issuer text,
    subject text,
    permissions text[] not null default '{}',
    created timestamptz not null default now(),
    check ((issuer is null) = (subject is null)),
    check ((password_hash is null) <> (issuer is null)),
    check (password_hash is null or email is not null)
);
create unique index users_email on {schema}.users (lower(email)) where password_hash is not null;
create unique index users_subject on {schema}.users (issuer, subject);

-- A session is a family of refresh tokens, each of which is used once. Of the one that is good and of the one before it
-- the SHA-256 is kept; `rotated` is when the one before was used.
create table {schema}.sessions (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references {schema}.users on delete cascade,
    current_hash bytea not null,
    previous_hash bytea,
    rotated timestamptz,
    created timestamptz not null default now(),
    last_used timestamptz not null default now(),
    expires timestamptz not null,
    revoked timestamptz,
    user_agent text,
    address text
);
create index sessions_user on {schema}.sessions (user_id, last_used desc) where revoked is null;
create index sessions_expires on {schema}.sessions (expires);

-- Of a key only its SHA-256 is kept: it has enough random bits that a slow hash would add nothing. `prefix` is the part
-- of it that may be shown. A key with an owner may never do more than its owner may.
create table {schema}.api_keys (
    id uuid primary key default gen_random_uuid(),
    prefix text not null,
    hash bytea not null unique,
    name text not null,
    scopes text[] not null,
    admin boolean not null default false,
    owner uuid references {schema}.users on delete cascade,
    created timestamptz not null default now(),
    expires timestamptz,
    last_used timestamptz,
    revoked timestamptz,
    -- The key that took its place; until `expires` both are good.
    replaced_by uuid references {schema}.api_keys on delete set null
);
create index api_keys_owner on {schema}.api_keys (owner, created);

-- What was taken back, for every node to see: each reads the rows of transactions that it may not have seen yet, by `xid`,
-- and forgets what it knows of the subject. Of a session that is all there is: its access tokens are good until `until`
-- otherwise. Rows past that are deleted.
create table {schema}.auth_revocations (
    xid xid8 not null default pg_current_xact_id(),
    number bigint not null generated always as identity,
    kind text not null check (kind in ('session', 'key')),
    subject uuid not null,
    at timestamptz not null default now(),
    until timestamptz not null,
    primary key (xid, number)
);
create index auth_revocations_until on {schema}.auth_revocations (until);
