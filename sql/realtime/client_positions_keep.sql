-- Keeps positions: $1 identities, $2 names, $3 the connections that keep them, $4 the positions, $5 whether the connections are open. Those that another connection has taken over stay
-- as they are.
update {schema}.client_positions p set position = kept.position, is_open = kept.is_open, at = now()
from unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::boolean[]) as kept (identity, name, holder, position, is_open)
where p.identity = kept.identity and p.name = kept.name and p.holder = kept.holder
returning 1
