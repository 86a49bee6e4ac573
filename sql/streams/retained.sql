-- Living streams of which a part is kept: all of them (a start looks once; later ones are noted as they are created or read).
select id from {schema}.streams
where state = 0 and (retention_age_s is not null or retention_bytes is not null)
