-- The rows of a batch, as they came, for a transaction that is rolled back. Text and jsonb are bytes here, so that a row
-- whose content Postgres cannot read is found among the others instead of failing their COPY.
--
-- Deferred constraints are checked with each statement, so a row that would fail at commit is found here too.
set constraints all immediate;
-- Routes take no part, unless the target's refusal is to be the event's.
set local tidegate.routes = 'strict';
create temporary table tidegate_probe (
    place integer not null,
    id uuid not null,
    trace_id bytea,
    payload bytea,
    body bytea,
    content_type bytea,
    received_at timestamptz
) on commit drop;
