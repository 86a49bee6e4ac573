-- The living streams at paths ($1), each with its place among them: what nearly all reads ask for. The columns are in sql/streams/head_columns.sql.
-- For `(select $1)` see sql/streams/append.sql.
select wanted.place, {columns}, 'living' as status
from unnest((select $1::text[])) with ordinality as wanted (path, place)
join {schema}.streams s on s.path = wanted.path and s.state = 0 and (s.expires_at is null or s.expires_at > now())
