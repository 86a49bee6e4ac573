-- The connections that keep the positions $2 of the identity $1.
select distinct holder from {schema}.client_positions where identity = $1 and name = any($2)
