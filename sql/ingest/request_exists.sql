-- Decides a COPY with an unknown outcome: it stored all of its rows or none, so one of them is enough.
select exists (select from {schema}.requests where id = $1)
