-- The rows of a probe, as they came, each with its place.
copy pg_temp.tidegate_probe (place, {columns}) from stdin (format binary)
