-- Keeps where the feed stands, $2, at the time $1, and moves the floor to the newest position that is older than $3 seconds. Positions
-- behind the floor are needed no more.
with kept as (
    insert into {schema}.feed_positions (at, seen) values ($1, $2) on conflict (at) do nothing
), old as (
    select at, seen from {schema}.feed_positions where at < $1 - make_interval(secs => $3) order by at desc limit 1
), forgotten as (
    delete from {schema}.feed_positions p using old where p.at < old.at
)
update {schema}.feed_floor f set seen = old.seen from old
where pg_snapshot_xmax(old.seen::pg_snapshot) >= pg_snapshot_xmax(f.seen::pg_snapshot) and f.seen <> old.seen
