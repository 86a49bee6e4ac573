rollback to savepoint tidegate_route
