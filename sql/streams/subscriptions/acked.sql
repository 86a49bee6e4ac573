-- The acknowledged offset of the stream `t`: of another stream at the path of the link `l` nothing is, but what a fork inherits.
case when t.id is null then 0 when t.id = l.stream then l.acked else coalesce(t.fork_end, 0) end
