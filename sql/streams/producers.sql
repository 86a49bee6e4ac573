-- The states of producers ($2) of the streams at paths ($1).
select s.path, p.producer, p.epoch, p.seq
from unnest($1::text[], $2::text[]) as wanted (path, producer)
join {schema}.streams s on s.path = wanted.path and s.state < 2
join {schema}.stream_producers p on p.stream = s.id and p.producer = wanted.producer
