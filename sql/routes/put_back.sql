select {schema}.tidegate_route_defer($1, $2)
