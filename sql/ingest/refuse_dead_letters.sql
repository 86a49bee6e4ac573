-- Rejected again, each for its own error. An overload stays one: it was never accepted.
update {schema}.dead_letters letters
set error = fault.error,
    reason = case when letters.reason = 'overload' then letters.reason else fault.reason end,
    attempts = letters.attempts + 1,
    failed_at = now()
from unnest($1::uuid[], $2::text[], $3::text[]) as fault (id, error, reason)
where letters.id = fault.id
