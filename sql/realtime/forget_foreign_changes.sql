-- What this statement sees was committed before it got a number itself, so no change of this server has a higher one.
delete from {schema}.changes where xid > pg_current_xact_id()
