-- Probes the rows; returns one row for each that fails.
select place, state, violated, message from pg_temp.tidegate_probe_{test}()
