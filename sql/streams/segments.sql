-- The streams that a stream ($1) was forked from, nearest first, each with the end of the part that the fork shares with it, and its generation.
with recursive above as (
    select s.source, s.fork_end, 1 as depth from {schema}.streams s where s.id = $1
    union all
    select s.source, s.fork_end, above.depth + 1 from above join {schema}.streams s on s.id = above.source
)
select above.source as id, above.fork_end, coalesce(s.generation, 0)::bigint as generation
from above left join {schema}.streams s on s.id = above.source
where above.source is not null
order by above.depth
