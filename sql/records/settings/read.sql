-- The settings as they were saved last; no row: they were never changed.
select version, value::text as value from {schema}.app_settings
