-- Deletes up to $1 revocations that have no effect any more at $2.
delete from {schema}.auth_revocations
where (xid, number) in (select xid, number from {schema}.auth_revocations where until < $2 - interval '1 minute' limit $1)
returning 1
