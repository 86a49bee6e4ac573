-- A user of another issuer has no password here.
with held as materialized (
    select id from {schema}.users where id = $1 and password_hash is not null for no key update
), changed as (
    update {schema}.users set password_hash = $2 from held where users.id = held.id returning users.id
)
select id from changed
where (select {schema}.expect_rows('users', count(*), (select count(*) from changed)) from held)
