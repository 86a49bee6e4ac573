select id, title, created_at, updated_at, metadata::text as metadata
from {schema}.conversations
where id = $1 and owner is not distinct from $2
