-- Deletes expired, unused tickets. Their expiry is a time of Postgres' clock, so no other clock is compared.
delete from {schema}.auth_tickets
where hash in (
    select hash from {schema}.auth_tickets where expires <= now() order by expires limit 5000 for update skip locked
)
