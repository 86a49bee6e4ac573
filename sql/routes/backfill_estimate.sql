-- The planner knows about how many events there are without reading them.
explain (format json) select from {schema}.requests
