-- A session and its user. Serialises two uses of one refresh token.
select current_hash, previous_hash, sessions.revoked is not null as is_revoked, sessions.expires <= now() as is_expired,
    users.id, coalesce(users.email, '') as email, users.permissions,
    to_char(users.created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created
from {schema}.sessions join {schema}.users on users.id = sessions.user_id
where sessions.id = $1
for update of sessions
