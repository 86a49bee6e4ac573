delete from {schema}.client_nodes where node = $1
