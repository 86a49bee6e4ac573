-- The connection that keeps the position $2 of the identity $1.
select holder from {schema}.client_positions where identity = $1 and name = $2
