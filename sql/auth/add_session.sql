insert into {schema}.sessions (id, user_id, current_hash, expires, user_agent, address)
values ($1, $2, $3, now() + make_interval(secs => $4), $5, $6)
returning 1
