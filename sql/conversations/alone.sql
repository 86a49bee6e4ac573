-- No parallel workers: one request must not occupy all processors.
select set_config('max_parallel_workers_per_gather', '0', true)
