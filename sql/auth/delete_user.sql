-- Sessions and keys are deleted with their user, so other nodes are sent their ids first. A trigger that drops one of these changes is
-- an error.
with gone as materialized (
    select id from {schema}.users where id = $1 for update
), ended as materialized (
    select 'session' as kind, sessions.id, now() + make_interval(secs => $2) as until
    from {schema}.sessions join gone on sessions.user_id = gone.id
    union all
    select 'key', api_keys.id, now() + interval '1 minute'
    from {schema}.api_keys join gone on api_keys.owner = gone.id
), told as (
    insert into {schema}.auth_revocations (kind, subject, until) select kind, id, until from ended returning 1
), deleted as (
    delete from {schema}.users using gone where users.id = gone.id returning users.id
)
select id from deleted
where (select {schema}.expect_rows('users', count(*), (select count(*) from deleted)) from gone)
    and (select {schema}.expect_rows('auth_revocations', count(*), (select count(*) from told)) from ended)
