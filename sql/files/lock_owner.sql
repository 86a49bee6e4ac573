-- Serialises uploads of one owner, so that the sum that the quota is compared with stays true until the rows are committed. $1 is the
-- owner; null: unowned.
select pg_advisory_xact_lock(hashtextextended('{schema}.files owner ' || coalesce($1::text, ''), 0))
