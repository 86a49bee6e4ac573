-- Corrects the payload of a refused event, if its content has one of these versions. Its row is locked, so the version is the current one.
with current as (
    select id, hashtextextended(coalesce(encode(body, 'base64'), payload::text, ''), 0) as version
    from {schema}.requests
    where id = $1 and exists (select from {schema}.route_errors where event_id = $1)
    for no key update
), replaced as (
    update {schema}.requests requests
    set payload = $2::text::jsonb, body = null, content_type = 'application/json'
    from current
    where requests.id = current.id and ($3::bigint[] is null or current.version = any($3))
    returning requests.id, hashtextextended(requests.payload::text, 0) as version
)
select (select version from replaced) as version from current
