-- Those of these contents ($1) that no file has.
select hash
from unnest($1::bytea[]) as hash
where not exists (select from {schema}.files where sha256 = hash)
