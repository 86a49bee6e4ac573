-- Revocations of transactions after the cursor ($1, $2), and the horizon below which no more can be added: a transaction that is not
-- visible yet has an xid of at least `horizon`. At least one row, so that there always is a horizon.
select pg_snapshot_xmin(pg_current_snapshot())::text as horizon, found.*
from (select) as once
left join lateral (
    select xid::text, number, kind, subject, (extract(epoch from until))::bigint as until_s
    from {schema}.auth_revocations
    where (xid, number) > ($1::text::xid8, $2) and until > now()
    order by auth_revocations.xid, number
    limit $3
) as found on true
