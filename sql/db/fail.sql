-- Fails, whatever the database holds.
select 1 / $1
