-- What no transaction can set for itself. Only a superuser may set session_replication_role, so it is refused where a role presets it.
select current_setting('server_encoding') as encoding, current_setting('session_replication_role') as replication_role
