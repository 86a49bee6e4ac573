-- Stores when these keys were last used.
update {schema}.api_keys
set last_used = timestamptz 'epoch' + used.at_s * interval '1 second'
from unnest($1::uuid[], $2::int8[]) as used (id, at_s)
where api_keys.id = used.id
