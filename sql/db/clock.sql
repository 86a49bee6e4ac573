-- Microseconds of Unix time by the server's clock.
select (extract(epoch from clock_timestamp()) * 1000000)::bigint as now_us
