-- Suspends a route whose function was cancelled, if it is live. No row: there is no such route.
with suspended as (
    update {schema}.event_routes set state = 'suspended', suspended_at = clock_timestamp(), sqlstate = $2, error = left($3, 1000)
    where id = $1 and state = 'live' returning id
)
select id from suspended
