-- Deletes expired tickets that nobody used. Postgres' clock gave them their time, so no other one is asked.
delete from {schema}.auth_tickets
where hash in (
    select hash from {schema}.auth_tickets where expires <= now() order by expires limit 5000 for update skip locked
)
