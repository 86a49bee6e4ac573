-- Replaces the body of a dead letter, which is classified again when it is redriven. Its row is locked, so the version is the current one.
with current as (
    select id, hashtextextended(coalesce(encode(body, 'base64'), payload::text, ''), 0) as version
    from {schema}.dead_letters where id = $1 for no key update
), replaced as (
    update {schema}.dead_letters letters
    set payload = null, body = $2, content_type = 'application/json'
    from current
    where letters.id = current.id and ($3::bigint[] is null or current.version = any($3))
    returning hashtextextended(encode(letters.body, 'base64'), 0) as version
)
select (select version from replaced) as version from current
