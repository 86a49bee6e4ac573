-- Lets one node at a time change the secrets. The table is small, and reading it goes on.
lock table {schema}.stream_secrets in share row exclusive mode
