drop view if exists {views}.{name}
