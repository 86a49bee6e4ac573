-- Living streams that are compacted: all of them (a start looks once; later ones are noted as they are created or read).
select id from {schema}.streams where state = 0 and compacts_by_key
