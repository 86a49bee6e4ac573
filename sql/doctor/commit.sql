-- One commit that waits for the disk, and leaves nothing behind.
select pg_logical_emit_message(true, 'tidegate doctor', 'a commit')
