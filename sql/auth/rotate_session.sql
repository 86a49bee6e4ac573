update {schema}.sessions
set previous_hash = current_hash, current_hash = $2, rotated = clock_timestamp(), last_used = now(),
    expires = now() + make_interval(secs => $3)
where id = $1
