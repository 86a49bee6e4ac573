-- Whether the service's role may name tables of the schema of the table $1.
select has_schema_privilege(current_user, (select relnamespace from pg_class where oid = $1), 'usage')
