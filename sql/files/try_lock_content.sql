-- The lock of sql/files/lock_contents.sql for one content ($1), exclusively; false if an upload is about to use the content.
select pg_try_advisory_xact_lock(hashtextextended('{schema}.files content ' || encode($1, 'hex'), 0))
