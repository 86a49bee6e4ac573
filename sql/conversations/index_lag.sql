-- How many seconds ago the first change behind a place was made; no row if there is none. Also one that may not be read yet, as a
-- transaction from before it still runs: one look into the primary key.
select extract(epoch from clock_timestamp() - at)::double precision as lag_s
from {schema}.changes
where (xid, number) > ($1::text::xid8, $2)
order by xid, number
limit 1
