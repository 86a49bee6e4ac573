-- His sessions and keys go with him, so what they were is told first.
with gone as (
    select id from {schema}.users where id = $1
), told as (
    insert into {schema}.auth_revocations (kind, subject, until)
    select 'session', sessions.id, now() + make_interval(secs => $2)
    from {schema}.sessions join gone on sessions.user_id = gone.id
    union all
    select 'key', api_keys.id, now() + interval '1 minute'
    from {schema}.api_keys join gone on api_keys.owner = gone.id
)
delete from {schema}.users using gone where users.id = gone.id
returning users.id
