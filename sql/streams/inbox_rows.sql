-- Rows of the inbox that wait, but for those of some paths ($1): up to $2, and up to the one that exceeds $3 bytes. In the order of their ids: what was
-- committed before another call has a lower one.
select id, path, data, is_json
from (
    select id, path, data, is_json, sum(octet_length(data)) over (order by id) - octet_length(data) as before
    from (
        select id, path, data, is_json
        from {schema}.stream_inbox
        where error is null and path <> all($1)
        order by id
        limit $2
        for update skip locked
    ) as waiting
) as summed
where before < $3
order by id
