-- Living streams whose paths begin with $1, behind the path $2; up to $3. Paths compare byte by byte.
select id, path, tail from {schema}.streams
where path >= $1 and path > $2 and starts_with(path, $1) and state = 0 and (expires_at is null or expires_at > now())
order by path
limit $3
