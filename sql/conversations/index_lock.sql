-- Whether this transaction may work on the index; not while another node does. An advisory lock, as that gives the transaction no
-- xid: followers of the feed wait for those of transactions that write. The commit does not wait for the disk, so that they do not
-- either: a lot that is lost is lost together with its move, and done again. New words wait in a list until that is full, and who fills
-- it puts them into the index: with Postgres' limit of 4 MB that takes some 200 ms, with this one some 80.
select pg_try_advisory_xact_lock(hashtextextended('{schema} search', 0)) as is_mine,
    set_config('synchronous_commit', 'off', true), set_config('gin_pending_list_limit', '1MB', true)
