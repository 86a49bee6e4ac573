set local lock_timeout = '{ms}ms'
