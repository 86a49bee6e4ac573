-- Enables or disables a route. One with events that are still to be caught up is suspended, so that they come first.
update {schema}.event_routes r
set version = version + 1, updated_at = now(), was_live = was_live or $2,
    state = case
        when not $2 then 'disabled'
        when exists (select from {schema}.route_deferred d where d.route = r.id) or r.state = 'suspended' then 'suspended'
        else 'live'
    end
where id = $1
