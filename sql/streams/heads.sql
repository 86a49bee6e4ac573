-- The streams at paths ($1), each with its place among them. The columns are in sql/streams/head.sql.
select wanted.place, {head}
from unnest($1::text[]) with ordinality as wanted (path, place)
join {schema}.streams s on s.path = wanted.path and s.state < 2
