-- Keys, newest first: of one owner, or all. The cursor is the last key of the previous page.
select id, prefix, name, scopes, admin, owner, origins,
    to_char(created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created,
    to_char(expires at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as expires,
    to_char(last_used at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as last_used,
    to_char(revoked at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as revoked,
    replaced_by
from {schema}.api_keys
where ($1::uuid is null or owner = $1)
  and ($2::uuid is null or (api_keys.created, id) < (select created, id from {schema}.api_keys where id = $2))
order by api_keys.created desc, id desc
limit $3
