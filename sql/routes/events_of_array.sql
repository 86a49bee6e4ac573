with batch as (select * from pg_catalog.unnest({events}))
