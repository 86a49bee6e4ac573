-- Fails, whatever the database contains.
select 1 / $1
