select array(select {schema}.tidegate_route_explain())
