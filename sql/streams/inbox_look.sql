-- The first row of the inbox that waits.
select id from {schema}.stream_inbox where error is null order by id limit 1
