-- The streams that a stream ($1) was forked from, nearest first, each with the end of the part that the fork shares with it.
with recursive above as (
    select s.source, s.fork_end, 1 as depth from {schema}.streams s where s.id = $1
    union all
    select s.source, s.fork_end, above.depth + 1 from above join {schema}.streams s on s.id = above.source
)
select source as id, fork_end from above where source is not null order by depth
