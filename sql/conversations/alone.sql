-- Nothing that one asks for takes the processors of all.
select set_config('max_parallel_workers_per_gather', '0', true)
