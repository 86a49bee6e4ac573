update {schema}.feed_readers
set seen = $1, until = $2, xid = $3::text::xid8, number = $4, part = $5
where name = 'search'
