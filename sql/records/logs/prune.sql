-- Deletes up to $4 of the oldest entries: those from before $1, and those beyond the newest $3. The clock of Postgres counts too, from which $2
-- seconds are taken.
with cut as (
    select greatest(
        least($1::timestamptz, now() - make_interval(secs => $2)),
        (select created from {schema}.request_logs order by created desc, id desc offset $3 limit 1)
    ) as until
)
delete from {schema}.request_logs
where id in (
    select id from {schema}.request_logs where created <= (select until from cut) order by created, id limit $4 for update skip locked
)
returning 1
