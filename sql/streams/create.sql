-- A new stream, unless there is one at its path ($1). $6: the end of Expires-At in microseconds of Unix time. $8: the source of a fork, whose first own
-- offset is $9. The columns of the answer are in sql/streams/head.sql.
with created as (
    insert into {schema}.streams (
        path, content_type, tail, is_closed, has_lifetime, ttl_s, expires_at, kept_from, source, fork_end, fork_source, fork_offset,
        fork_sub_offset, inherits_lifetime, retention_age_s, retention_bytes, compacts_by_key
    )
    values (
        $1, $2, $3, $4, $5::bigint is not null or $6::bigint is not null, $5,
        coalesce(now() + $5 * interval '1 second', timestamptz 'epoch' + $6 * interval '1 microsecond'), $7, $8, $9, $10, $11, $12, $13, $14, $15, $16
    )
    on conflict (path) where state < 2 do nothing
    returning *
)
select {head} from created s
