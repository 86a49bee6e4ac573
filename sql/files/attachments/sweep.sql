-- Up to a thousand files of a collection ($1) behind a record ($2) and a name ($3): those that the record does not name any more are removed. A
-- name is never used again, so a record that changes at this moment does not name a removed one.
with looked_at as materialized (
    select record, name from {schema}.record_files
    where collection = $1 and (record, name) > ($2, $3)
    order by record, name
    limit 1000
), removed as (
    delete from {schema}.record_files as attached
    using looked_at
    where attached.collection = $1 and attached.record = looked_at.record and attached.name = looked_at.name
        and not exists (
            select from {table} as record, jsonb_each(record.data) as member
            where record.id = attached.record
                and jsonb_typeof(member.value) in ('string', 'array') and member.value ? attached.name
        )
    returning 1
)
select record, name, (select count(*) from removed) as removed from looked_at order by record desc, name desc limit 1
