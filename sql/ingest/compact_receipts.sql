-- Receipts of adjacent ranges are merged: a range's first sequence minus everything settled before it is the same for all of them.
with runs as (
    select journal, first, last,
        first - coalesce(sum(last - first + 1) over (
            partition by journal order by first rows between unbounded preceding and 1 preceding
        ), 0) as run
    from {schema}.ingest_receipts
    where journal = any($1)
), long as (
    select journal, run, min(first) as first, max(last) as last
    from runs
    group by journal, run
    having count(*) > 1
), gone as (
    delete from {schema}.ingest_receipts receipts
    using long
    where receipts.journal = long.journal and receipts.first between long.first and long.last
    returning receipts.*, long.first as run
)
insert into {schema}.ingest_receipts (journal, first, last, committed, duplicates, dead, discarded, quarantined)
select journal, min(first), max(last), sum(committed), sum(duplicates), sum(dead), sum(discarded), sum(quarantined)
from gone
group by journal, run
