-- Events with these trace ids that were accepted within a range of ids.
select id, trace_id from {schema}.requests where id >= $1 and id < $2 and trace_id = any($3)
union all
select id, trace_id from {schema}.dead_letters where id >= $1 and id < $2 and trace_id = any($3)
limit $4
