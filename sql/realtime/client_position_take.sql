-- From now on the connection $3 keeps the position $2 of the identity $1.
update {schema}.client_positions set holder = $3, is_open = true, at = now() where identity = $1 and name = $2
returning position
