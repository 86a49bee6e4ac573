-- `rollback to` keeps the savepoint, and with it the locks of a subtransaction; the next savepoint would nest in it.
release savepoint part
