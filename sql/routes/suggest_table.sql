create table {target} (
    event_id uuid {event_key},
    received_at timestamptz not null{columns}{key}
)
