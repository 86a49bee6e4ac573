-- While it is held nothing is stored, and everything gathers in the journal.
lock table requests in exclusive mode
