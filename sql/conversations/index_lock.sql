-- Whether this transaction may work on the index: false while another node does. An advisory lock, as it gives the transaction no xid:
-- subscribers of the feed wait for the xids of writing transactions. The commit does not wait for the disk, so that they do not either: a
-- batch that is lost is lost together with its cursor, and repeated. New words wait in a pending list, and the writer that fills the list
-- moves it into the index: a smaller limit than Postgres' 4 MB keeps that pause short.
select pg_try_advisory_xact_lock(hashtextextended('{schema} search', 0)) as is_mine,
    set_config('synchronous_commit', 'off', true), set_config('gin_pending_list_limit', '1MB', true)
