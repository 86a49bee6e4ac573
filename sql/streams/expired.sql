-- Streams that ended by themselves before a time ($1, microseconds of Unix time), behind an id ($2); up to $3.
select id from {schema}.streams
where id > $2 and has_lifetime and state = 0 and expires_at < timestamptz 'epoch' + $1 * interval '1 microsecond' and state < 2
order by id
limit $3
