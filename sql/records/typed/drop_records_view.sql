drop view if exists {table}
