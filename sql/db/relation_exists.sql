-- Whether the schema $1 has a relation of the name $2.
select to_regclass(quote_ident($1) || '.' || quote_ident($2)) is not null
