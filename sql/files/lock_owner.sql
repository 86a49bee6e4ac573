-- Who adds to an owner's files waits for whoever does so already, so that the sum that the quota is held against stays
-- true until the rows are in. $1 is the owner, null for nobody in particular.
select pg_advisory_xact_lock(hashtextextended('{schema}.files owner ' || coalesce($1::text, ''), 0))
