-- Given payloads, as events of now.
insert into pg_temp.tidegate_check_plain (id, trace_id, payload, content_type, received_at)
select ('00000000-0000-7000-8000-' || lpad(to_hex(place), 12, '0'))::uuid, 'check', payload, 'application/json', now()
from jsonb_array_elements($1::jsonb) with ordinality as event (payload, place)
