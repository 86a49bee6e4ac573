-- A plain table with the same columns and key: what one COPY of the same rows can do at the most.
create table drain_floor (like requests including defaults including indexes)
