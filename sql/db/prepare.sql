-- What must be there before the first migration: the schema, and the choices that the first migration follows.
do $$
begin
    -- Even `if not exists` asks for the right to create, which a role that was given its schema need not have.
    if to_regnamespace('{schema}') is null then
        create schema {schema};
    end if;
end
$$;
create table if not exists {schema}.tidegate_choices (name text primary key, value text not null);
