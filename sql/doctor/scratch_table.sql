-- Dropped at the end of the session. It is not written to the WAL, so this is the most that COPY can reach.
create temporary table tidegate_doctor (
    id uuid primary key,
    trace_id text not null,
    payload jsonb,
    body bytea,
    content_type text,
    received_at timestamptz not null
) on commit drop
