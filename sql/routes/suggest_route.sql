select id as event_id, received_at{columns}
from batch
where {condition}
