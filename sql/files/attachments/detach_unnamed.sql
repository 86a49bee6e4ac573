-- Files of a collection ($1) that no record of its table names in any member: those of a field that was removed, or keeps one of several.
delete from {schema}.record_files as attached
where attached.collection = $1 and not exists (
    select from {table} as record, jsonb_each(record.data) as member
    where record.id = attached.record
        and jsonb_typeof(member.value) in ('string', 'array') and member.value ? attached.name
)
