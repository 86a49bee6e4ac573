-- Names in a route's select are found as in its function. `batch` stands for the events; the transaction is rolled back.
set local search_path = pg_catalog, pg_temp;
set local lock_timeout = '2s';
create temporary table batch (like {schema}.requests) on commit drop;
