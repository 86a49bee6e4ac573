-- Ends these sessions of this user, and notifies every node. $3: seconds for which their access tokens may stay valid. Without ids: all
-- sessions; without a user: of any user. A trigger that keeps one is an error.
with held as materialized (
    select id from {schema}.sessions
    where ($1::uuid is null or user_id = $1) and ($2::uuid[] is null or id = any ($2)) and revoked is null
    order by id
    for no key update
), ended as (
    update {schema}.sessions set revoked = now()
    from held
    where sessions.id = held.id
    returning sessions.id
), told as (
    insert into {schema}.auth_revocations (kind, subject, until)
    select 'session', id, now() + make_interval(secs => $3) from ended
    returning 1
)
select id from ended
where (
    select {schema}.expect_rows('sessions', count(*), (select count(*) from ended))
        and {schema}.expect_rows('auth_revocations', count(*), (select count(*) from told))
    from held
)
