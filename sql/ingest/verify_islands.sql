-- The sequences of each journal that a table holds, as ranges without gaps, with the first and last time of their ids. A
-- range with more rows than sequences holds events twice.
select tag, min(sequence) as first, max(sequence) as last, count(*) as events, min(ms) as first_ms, max(ms) as last_ms
from (
    select tag, sequence, ms,
        sequence - dense_rank() over (partition by tag order by sequence) as island
    from (
        select {schema}.ingest_tag(id) as tag, {schema}.ingest_sequence(id) as sequence, {schema}.ingest_ms(id) as ms
        from {schema}.{table}
        where {which}
    ) as ids
) as islands
group by tag, island
order by tag, first
