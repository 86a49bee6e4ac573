-- The members of all records after a change of the fields. Versions and times stay: no value changes but by its field's definition.
update {table} set data = {members}
