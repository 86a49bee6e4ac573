-- Waits for the running COPYs. What is in requests from now on came through the triggers that are made in this transaction.
lock table {schema}.requests in share row exclusive mode
