-- The sequences of each journal that a table holds, as ranges without gaps. A range with more rows than sequences holds
-- events twice.
select tag, min(sequence) as first, max(sequence) as last, count(*) as events
from (
    select tag, sequence,
        sequence - dense_rank() over (partition by tag order by sequence) as island
    from (
        select {schema}.ingest_tag(id) as tag, {schema}.ingest_sequence(id) as sequence
        from {schema}.{table}
        where {which}
    ) as ids
) as islands
group by tag, island
order by tag, first
