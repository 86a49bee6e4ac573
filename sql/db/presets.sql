-- After `begin`: the settings that every transaction relies on, whatever the server, the database or the role presets. Each ends with the
-- transaction, so it works behind a pooler. {timeout_ms} is a number of the service's own; 0 is no limit.
--
-- Left alone on purpose: default_transaction_read_only, with which operators and providers protect a server; search_path, as all
-- of the service's names are qualified and a user's trigger may need its own; the styles of dates and intervals and the time zone, as no
-- statement prints or reads one in them.
set local statement_timeout = {timeout_ms};
set local lock_timeout = 0;
set local idle_in_transaction_session_timeout = 0;
set local synchronous_commit = on;
set local row_security = on
