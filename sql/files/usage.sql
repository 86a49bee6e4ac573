-- The bytes that an owner ($1) holds. Each file counts at least $2: an empty one takes space as well.
select coalesce(sum(greatest(size, $2)), 0)::bigint
from {schema}.files
where coalesce(owner, '00000000-0000-0000-0000-000000000000') = coalesce($1, '00000000-0000-0000-0000-000000000000')
