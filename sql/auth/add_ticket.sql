-- Adds the ticket $1 of the caller $2, valid for $4 seconds, unless they have $5 or all callers have $6. Deletes some expired tickets, more than
-- it adds: so their number is bounded. One row reports `is_added`; without it a trigger dropped the ticket. Tickets live by Postgres' clock
-- alone.
with old as (
    delete from {schema}.auth_tickets
    where hash in (
        select hash from {schema}.auth_tickets where expires <= now() order by expires limit 10 for update skip locked
    )
), counted as materialized (
    select (
        select count(*) < $5
        from (select from {schema}.auth_tickets where caller = $2 and expires > now() limit $5) as own
    ) and (
        select count(*) < $6 from (select from {schema}.auth_tickets where expires > now() limit $6) as all_of_them
    ) as fits
), added as (
    insert into {schema}.auth_tickets (hash, caller, credential, expires)
    select $1, $2, $3, now() + make_interval(secs => $4) from counted where fits
    returning 1
)
select fits as is_added from counted where not fits or exists (select from added)
