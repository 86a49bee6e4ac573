-- Rows of the inbox that wait, and those that could not be moved; of each up to $1.
select (select count(*) from (select from {schema}.stream_inbox where error is null order by id limit $1) as rows) as waiting,
    (select count(*) from (select from {schema}.stream_inbox where error is not null order by id limit $1) as rows) as failed
