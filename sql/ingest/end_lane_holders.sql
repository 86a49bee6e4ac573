-- Ends the backends of one lane, or of all lanes of a journal, whose transactions do not end by themselves.
select pg_terminate_backend(pid)
from pg_stat_activity
where starts_with(application_name, $1) and usename = session_user and pid <> pg_backend_pid()
