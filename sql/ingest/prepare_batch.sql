-- For this transaction only, so that it works behind a pooler. The journal holds the batch until a checkpoint has made it
-- durable, so its commit need not wait for the disk.
select set_config('application_name', $1, true), set_config('synchronous_commit', 'off', true)
