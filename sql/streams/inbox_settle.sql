-- Removes the rows that were moved ($1), and notes the reasons ($3) why others ($2) cannot be.
with moved as (
    delete from {schema}.stream_inbox where id = any($1)
    returning 1
), failed as (
    update {schema}.stream_inbox i set error = failed.error, failed_at = now()
    from unnest($2::bigint[], $3::text[]) as failed (id, error)
    where i.id = failed.id
    returning 1
)
select {schema}.expect_rows('stream_inbox', cardinality($1)::bigint + cardinality($2), settled.count)
from (select (select count(*) from moved) + (select count(*) from failed) as count) as settled
