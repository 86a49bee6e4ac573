-- The backend, and its snapshot: while both are the same, nothing was committed. After a crash of Postgres the backend is another one.
select pg_backend_pid() as backend, pg_current_snapshot()::text as snapshot
