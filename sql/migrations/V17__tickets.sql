-- Tickets: what a browser shows instead of a token where it can set no header. A row is a ticket that was not used; `hash` is its SHA-256.
-- `caller` is a hash of the caller's name, by which they are counted. `credential` is what their token said, and no secret.
create table {schema}.auth_tickets (
    hash bytea primary key,
    caller bytea not null,
    credential jsonb not null,
    expires timestamptz not null
);

create index auth_tickets_caller on {schema}.auth_tickets (caller);
create index auth_tickets_expires on {schema}.auth_tickets (expires);
