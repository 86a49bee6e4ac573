-- The places of the changes of a poll behind a place, in order, up to $6 of them. $1 to $3 as for placed.sql; $4 and $5: the place.
with {placed}
select xid::text, last, number from placed where (last, number) > ($4, $5) order by last, number limit $6
