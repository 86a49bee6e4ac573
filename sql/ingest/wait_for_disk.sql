-- A fence makes durable what it has read, whatever the role's default is.
set local synchronous_commit = on
