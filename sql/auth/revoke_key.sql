-- Revokes a key, by its id or its prefix, and notifies every node. $3: only if it belongs to this owner. A trigger that drops one of
-- these changes is an error: the key would stay valid.
with held as materialized (
    select id from {schema}.api_keys
    where (id = $1 or prefix = $2) and ($3::uuid is null or owner = $3) and revoked is null
    for no key update
), gone as (
    update {schema}.api_keys set revoked = now() from held where api_keys.id = held.id returning api_keys.id
), told as (
    insert into {schema}.auth_revocations (kind, subject, until)
    select 'key', id, now() + interval '1 minute' from gone
    returning 1
)
select id from gone
where (
    select {schema}.expect_rows('api_keys', count(*), (select count(*) from gone))
        and {schema}.expect_rows('auth_revocations', count(*), (select count(*) from told))
    from held
)
