-- Follows what happened to a watched table.
select message, is_failure from {schema}.tidegate_watch_check($1)
