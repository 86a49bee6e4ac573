-- How long a lane's transaction is waited for before its backend is ended.
set local lock_timeout = '2s'
