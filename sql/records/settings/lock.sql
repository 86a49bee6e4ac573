-- Serialises changes of the settings, the first one too, which finds no row to lock.
select pg_advisory_xact_lock(hashtextextended('{schema}.app_settings', 0))
