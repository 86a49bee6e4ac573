select {schema}.tidegate_route_refuse($1, array[$2::uuid], array[$3::text], array[$4::text])
