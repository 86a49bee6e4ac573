-- Those of these contents ($1) that no file has, and no file of a record.
select hash
from unnest($1::bytea[]) as hash
where not exists (select from {schema}.files where sha256 = hash)
    and not exists (select from {schema}.record_files where sha256 = hash)
