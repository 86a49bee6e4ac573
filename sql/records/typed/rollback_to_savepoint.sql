rollback to savepoint tidegate_view
