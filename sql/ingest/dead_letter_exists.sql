-- Decides a COPY of dead letters with an unknown outcome, as for requests.
select exists (select from {schema}.dead_letters where id = $1)
