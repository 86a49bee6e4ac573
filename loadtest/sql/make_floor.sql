-- A plain table with the same columns and key: the most that one COPY of the same rows can reach.
create table drain_floor (like requests including defaults including indexes)
