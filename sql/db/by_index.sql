-- For this transaction: rows are found by their indexes, one after the other. A connection keeps its plans, and a plan made while a table
-- was small may read all of it long after it has grown. Data that a statement already has, request by request, is joined by `full join`,
-- for which Postgres has no plan that compares every pair. Plans are kept: with the values of one execution they look cheaper than without, and
-- Postgres would plan each execution anew.
select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
    set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
    -- A disabled plan counts as very expensive where there is no other, which would start the compiler.
    set_config('jit', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)
