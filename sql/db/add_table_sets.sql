-- Records that these sets of tables exist.
insert into {schema}.tidegate_table_sets (name) select unnest($1::text[]) on conflict (name) do nothing
