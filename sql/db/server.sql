-- Settings that no transaction can set for itself. Only a superuser may set session_replication_role, so the start rejects a role that
-- presets it.
select current_setting('server_encoding') as encoding, current_setting('session_replication_role') as replication_role
