update {schema}.feed_readers set xid = $1::text::xid8, number = $2, part = $3 where name = 'search'
