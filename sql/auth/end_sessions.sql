-- Ends these sessions of this user, and tells every node; $3 are the seconds for which their access tokens may live on.
-- Without ids all of them, without a user whosever they are.
with ended as (
    update {schema}.sessions set revoked = now()
    where ($1::uuid is null or user_id = $1) and ($2::uuid[] is null or id = any ($2)) and revoked is null
    returning id
), told as (
    insert into {schema}.auth_revocations (kind, subject, until)
    select 'session', id, now() + make_interval(secs => $3) from ended
)
select id from ended
