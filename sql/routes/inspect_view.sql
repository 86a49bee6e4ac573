create temporary view tidegate_route_view as
