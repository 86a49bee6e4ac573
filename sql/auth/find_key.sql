-- A key by its hash, and its owner's permissions. Null permissions: the owner comes from another issuer, whose tokens carry them.
select api_keys.id, prefix, scopes, admin, owner, origins, ceil(extract(epoch from expires))::bigint as expires_s,
    case when users.issuer is null then users.permissions end as owner_permissions
from {schema}.api_keys left join {schema}.users on users.id = api_keys.owner
where hash = $1 and revoked is null and (expires is null or expires > now())
