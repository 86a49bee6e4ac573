(select l.number from {schema}.changes l where l.xid = visible.xid order by l.number desc limit 1)
