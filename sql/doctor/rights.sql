-- The privileges on its tables that the service needs and lacks. No rows if the tables do not exist yet.
select wanted.name || ': ' || wanted.privilege as missing
from (values
    ('requests', 'insert'), ('requests', 'select'),
    ('dead_letters', 'insert'), ('dead_letters', 'select'), ('dead_letters', 'update'), ('dead_letters', 'delete'),
    ('ingest_journals', 'insert'), ('ingest_journals', 'select'), ('ingest_journals', 'update'),
    ('ingest_lanes', 'insert'), ('ingest_lanes', 'select'), ('ingest_lanes', 'update'),
    ('ingest_receipts', 'insert'), ('ingest_receipts', 'select'), ('ingest_receipts', 'update'), ('ingest_receipts', 'delete'),
    ('ingest_keys', 'insert'), ('ingest_keys', 'select'), ('ingest_keys', 'update'), ('ingest_keys', 'delete'),
    ('ingest_duplicates', 'insert'), ('ingest_duplicates', 'select'), ('ingest_duplicates', 'delete')
) as wanted (name, privilege)
join pg_class tables on tables.oid = to_regclass('{schema}.' || wanted.name)
where not has_table_privilege(tables.oid, wanted.privilege)
