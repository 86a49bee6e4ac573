-- Deletes links by patterns to streams that are gone.
delete from {schema}.stream_subscription_links
where (subscription, path) in (
    select l.subscription, l.path
    from {schema}.stream_subscription_links l
    where not l.is_explicit and not exists (select from {schema}.streams t where t.path = l.path and t.state < 2)
    limit 5000
)
