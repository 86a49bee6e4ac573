-- The first statement of a batch of writes: takes the locks (lock.sql) of those of the conversations $1 that are free, and reports them, to
-- the statements after it too. Where $2 says that the conversation's row will be written the row is locked as well, as imports write it
-- without the other lock. The statement never waits, so batches cannot deadlock, and one locked conversation delays no other.
with asked as (
    select id, is_written from unnest($1::uuid[], $2::boolean[]) as asked (id, is_written)
), tried as materialized (
    select id, is_written, pg_try_advisory_xact_lock(hashtextextended('conversation:' || id, 0)) as is_mine from asked
), held as materialized (
    select c.id
    from {schema}.conversations c
    join tried on tried.id = c.id
    where tried.is_mine and tried.is_written
    for no key update of c skip locked
)
select set_config(
    'tidegate.locked',
    coalesce(
        array_agg(tried.id) filter (where tried.is_mine and (held.id is not null or not tried.is_written)), '{}'
    )::text,
    true
)::uuid[] as locked
from tried
full join held on held.id = tried.id
