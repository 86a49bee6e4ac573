-- The rows of a probe, as they came, each with its position.
copy pg_temp.tidegate_probe (place, {columns}) from stdin (format binary)
