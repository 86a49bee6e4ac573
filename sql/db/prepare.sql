-- What must be there before the first migration: the schema, and the choices that the first migration follows.
create schema if not exists {schema};
create table if not exists {schema}.tidegate_choices (name text primary key, value text not null);
