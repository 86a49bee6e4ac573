-- The key $1 is good for $3 seconds more, and $2 takes its place. Every node looks it up anew.
with replaced as (
    update {schema}.api_keys
    set replaced_by = $2, expires = least(expires, now() + make_interval(secs => $3))
    where id = $1 and ($4::uuid is null or owner = $4) and revoked is null and (expires is null or expires > now())
    returning id
), told as (
    insert into {schema}.auth_revocations (kind, subject, until)
    select 'key', id, now() + interval '1 minute' from replaced
)
select id from replaced
