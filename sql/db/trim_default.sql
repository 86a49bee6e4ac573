-- What the net took and nobody keeps any more.
delete from {schema}.requests_default where id < $1
