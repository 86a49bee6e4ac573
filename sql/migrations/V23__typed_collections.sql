-- Collections with a schema: fields with types, rules and indexes. Null: the collection takes any JSON object.
alter table {schema}.collections add column schema jsonb;
-- The last change of the schema or of the name.
alter table {schema}.collections add column updated timestamptz not null default now();
-- Their ids stay when they are renamed.
create unique index collections_schema_id on {schema}.collections ((schema ->> 'id')) where schema is not null;
