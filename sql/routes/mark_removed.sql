-- From now on the route does nothing; its name is free.
update {schema}.event_routes set state = 'removed', name = format('(removed %s)', id), version = version + 1 where id = $1
