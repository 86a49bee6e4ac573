-- Serialises the creation of collections, so that their number is known.
select pg_advisory_xact_lock(hashtextextended('{schema}.collections', 0))
