-- While the lock is held nothing is stored, and all events gather in the journal.
lock table requests in exclusive mode
