-- Locks the streams at paths ($1) for appends, in the order of their ids. The columns are in sql/streams/head.sql. The last placeholder is nothing,
-- or `skip locked`.
select {head}, s.seq, s.closed_by_id, s.closed_by_epoch, s.closed_by_seq
from {schema}.streams s
where s.path = any($1) and s.state < 2
order by s.id
for no key update {wait}
