-- The user's keys are looked up again, since they may do no more than the user. A user of another issuer has no permissions here: their
-- tokens carry them. A trigger that drops the change, or its notification of other nodes, is an error.
with held as materialized (
    select id from {schema}.users where id = $1 and password_hash is not null for no key update
), changed as (
    update {schema}.users set permissions = $2 from held where users.id = held.id returning users.id
), keys as materialized (
    select api_keys.id from {schema}.api_keys join held on api_keys.owner = held.id
), told as (
    insert into {schema}.auth_revocations (kind, subject, until)
    select 'key', id, now() + interval '1 minute' from keys
    returning 1
)
select id from changed
where (select {schema}.expect_rows('users', count(*), (select count(*) from changed)) from held)
    and (select {schema}.expect_rows('auth_revocations', count(*), (select count(*) from told)) from keys)
