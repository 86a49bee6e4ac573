-- Takes the one mail that an address ($1, a hash with the kind of the mail) may get in $2 seconds; no row: it got one. Some old rows are
-- deleted on the way.
with old as (
    delete from {schema}.mail_limits where key in (
        select key from {schema}.mail_limits
        where sent_at < now() - make_interval(secs => $2) and key <> $1
        order by sent_at limit 100 for update skip locked
    )
)
insert into {schema}.mail_limits as taken (key, sent_at) values ($1, now())
on conflict (key) do update set sent_at = excluded.sent_at where taken.sent_at < now() - make_interval(secs => $2)
returning 1
