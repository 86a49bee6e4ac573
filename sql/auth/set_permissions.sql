-- Keys of his are looked up anew: they may do no more than he may. Of a user for whom an issuer vouches, tokens say what he may do
-- and no row does.
with changed as (
    update {schema}.users set permissions = $2
    where id = $1 and password_hash is not null
    returning id
), told as (
    insert into {schema}.auth_revocations (kind, subject, until)
    select 'key', api_keys.id, now() + interval '1 minute'
    from {schema}.api_keys join changed on api_keys.owner = changed.id
)
select id from changed
