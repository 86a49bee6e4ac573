select xid, number,
    -- Looked up once for each transaction.
    case when row_number() over (partition by xid order by number desc) = 1
        then (select l.number from {schema}.changes l where l.xid = visible.xid order by l.number desc limit 1)
    end as tip
from visible
