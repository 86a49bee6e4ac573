-- The most recently used keys, so that they are known while Postgres is away.
select api_keys.id, prefix, scopes, admin, owner, origins, ceil(extract(epoch from expires))::bigint as expires_s,
    case when users.issuer is null then users.permissions end as owner_permissions, hash
from {schema}.api_keys left join {schema}.users on users.id = api_keys.owner
where revoked is null and (expires is null or expires > now())
order by last_used desc nulls last, api_keys.created desc
limit $1
