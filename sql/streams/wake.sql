-- Reports changed streams to the other nodes ($1: this one). $2: their paths. It is a hint: a lost one delays readers elsewhere, so nothing waits for the
-- disk.
with settings as materialized (
    select set_config('synchronous_commit', 'off', true) = 'off' as is_set
)
insert into {schema}.changes (number, topic, record, action, created, updated, data)
select nextval('{schema}.change_numbers'), 'streams:changed', $1, 'append', now(), now(), to_jsonb($2::text[])
from settings
where is_set
