-- Locks the stream at a path ($1). The placeholder is the strength of the lock: a fork takes `key share` of its source, which appends do not
-- wait for and a deletion does.
select id from {schema}.streams where path = $1 and state < 2 for {strength}
