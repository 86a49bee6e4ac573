-- The number of an owner's valid keys.
select count(*) from {schema}.api_keys
where owner = $1 and revoked is null and (expires is null or expires > now())
