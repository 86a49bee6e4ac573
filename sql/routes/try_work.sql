-- One node works on a route at a time.
select pg_try_advisory_xact_lock(hashtextextended('tidegate route work {schema} ' || $1::integer, 0))
