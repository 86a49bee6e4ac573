-- Stores the state of the subscription $1, and the acknowledged offsets $11 of the streams $10 at the paths $9. Returns the number of rows stored.
with acked as (
    update {schema}.stream_subscription_links l
    set stream = a.stream, acked = a.acked
    from unnest($9::text[], $10::bigint[], $11::bigint[]) as a (path, stream, acked)
    where l.subscription = $1 and l.path = a.path
    returning 1
), saved as (
    update {schema}.stream_subscriptions
    set generation = $2, wake_id = $3, phase = $4, due_at = $5, holder = $6, failures = $7, failure = $8
    where number = $1
    returning 1
)
select (select count(*) from acked) + (select count(*) from saved) as stored
