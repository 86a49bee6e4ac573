-- Created before the first migration: the schema, the choices that the first migration follows, and the history of migrations, in
-- refinery's form.
do $$
begin
    -- Even `if not exists` needs the privilege to create, which a role with a schema of its own may lack.
    if to_regnamespace('{schema}') is null then
        create schema {schema};
    end if;
end
$$;
create table if not exists {schema}.tidegate_choices (name text primary key, value text not null);
create table if not exists {schema}.tidegate_migrations (
    version int4 primary key,
    name varchar(255),
    applied_on varchar(255),
    checksum varchar(255)
);
