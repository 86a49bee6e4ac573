-- One collection is made at a time, so that their number is known.
select pg_advisory_xact_lock(hashtextextended('{schema}.collections', 0))
