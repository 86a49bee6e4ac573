-- A user's active sessions, most recently used first.
select id, to_char(created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created,
    to_char(last_used at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as last_used,
    to_char(expires at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as expires,
    user_agent, address
from {schema}.sessions
where user_id = $1 and revoked is null and expires > now()
order by sessions.last_used desc, id
