-- Deletes keys that have signed long ago.
delete from {schema}.stream_secrets where kind = 'signing' and id = any($1)
