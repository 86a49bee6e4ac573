-- The sets of tables that this database has, beside those that every database has. A module that is off (MODULES) has none; they are made
-- when it is turned on, and kept when it is turned off. The program names them (src/config/modules.rs).
create table {schema}.tidegate_table_sets (
    name text primary key
);
