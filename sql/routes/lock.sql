select id, version, state, was_live, backfill_until is not null as is_filling from {schema}.event_routes where name = $1 and state <> 'removed' for no key update
