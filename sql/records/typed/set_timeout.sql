-- $1 is the time of the statements that follow in this transaction, or up to its savepoint.
select set_config('statement_timeout', $1, true)
