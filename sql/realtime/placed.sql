-- The changes that a snapshot sees and an older one did not, with their places, as common table expressions. $1 and $2: the older one's running
-- transactions and its end. $3: the newer one; null: this statement's. The placeholders are a fixed condition on $8, and `tips`: the
-- number of a transaction's last change, whatever its topic, at one of its changes at least.
fresh as materialized (
    select c.xid, c.number from {schema}.changes c where c.xid = any($1::text[]::xid8[]) and {topic}
    union all
    select c.xid, c.number from {schema}.changes c where c.xid >= $2::text::xid8 and {topic}
), visible as materialized (
    select xid, number from fresh
    where $3::text is null or pg_visible_in_snapshot(xid, (select $3::text::pg_snapshot))
), tips as (
    {tips}
), placed as materialized (
    select xid, number, max(tip) over (partition by xid) as last from tips
)
