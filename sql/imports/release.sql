-- `rollback to` leaves the savepoint where it is, and with it the locks of a subtransaction; the next one would nest in it.
release savepoint part
