-- From now on the connection $3 keeps the positions $2 of the identity $1.
update {schema}.client_positions set holder = $3, is_open = true, at = now() where identity = $1 and name = any($2)
returning name, position
