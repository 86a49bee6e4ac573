-- Whether the role can create migrations' objects and partitions.
select case when to_regnamespace('{schema}') is null
    then has_database_privilege(current_database(), 'create')
    else has_schema_privilege(to_regnamespace('{schema}')::oid, 'create')
end
