-- Age in seconds of the first change after a cursor; no row if there is none. Includes a change that may not be read yet, as an older
-- transaction is still running: one look-up in the primary key.
select extract(epoch from clock_timestamp() - at)::double precision as lag_s
from {schema}.changes
where (xid, number) > ($1::text::xid8, $2)
order by xid, number
limit 1
