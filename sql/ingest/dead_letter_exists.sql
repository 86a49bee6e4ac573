-- Settles a COPY whose end was not heard, as for requests.
select exists (select from {schema}.dead_letters where id = $1)
