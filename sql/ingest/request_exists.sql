-- Settles a COPY whose end was not heard: it stored all of its rows or none, so one of them tells.
select exists (select from {schema}.requests where id = $1)
