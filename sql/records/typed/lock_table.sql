-- Writers wait until the records have the new fields; readers do not.
lock table {table} in share row exclusive mode
