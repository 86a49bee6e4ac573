-- A lot of those that are of no use any more.
delete from {schema}.auth_revocations
where (xid, number) in (select xid, number from {schema}.auth_revocations where until < now() - interval '1 minute' limit $1)
returning 1
