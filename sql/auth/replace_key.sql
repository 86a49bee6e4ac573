-- The key $1 is valid for $3 more seconds, and $2 replaces it. Every node looks it up again. A trigger that drops one of these changes is
-- an error.
with held as materialized (
    select id from {schema}.api_keys
    where id = $1 and ($4::uuid is null or owner = $4) and revoked is null and (expires is null or expires > now())
    for no key update
), replaced as (
    update {schema}.api_keys
    set replaced_by = $2, expires = least(expires, now() + make_interval(secs => $3))
    from held
    where api_keys.id = held.id
    returning api_keys.id
), told as (
    insert into {schema}.auth_revocations (kind, subject, until)
    select 'key', id, now() + interval '1 minute' from replaced
    returning 1
)
select id from replaced
where (
    select {schema}.expect_rows('api_keys', count(*), (select count(*) from replaced))
        and {schema}.expect_rows('auth_revocations', count(*), (select count(*) from told))
    from held
)
