-- For this transaction: rows are found by their indexes, one after the other. A connection keeps its plans, and one that was made
-- while a table was small may read all of it long after it has grown. What a statement has at hand already, request by request, it joins
-- by `full join`, for which Postgres knows no way that compares each with each.
select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
    set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
    -- What is ruled out counts as very expensive where there is no other way, and would be compiled for that.
    set_config('jit', 'off', true)
