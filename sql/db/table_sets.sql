-- The sets of tables that this database has.
select name from {schema}.tidegate_table_sets
