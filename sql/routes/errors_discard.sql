-- The errors of an event, of all routes; the event stays in requests.
delete from {schema}.route_errors where event_id = $1 returning route
