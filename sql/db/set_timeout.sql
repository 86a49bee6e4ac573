-- For this transaction only, so that it works behind a pooler. {timeout_ms} is a number of our own.
set local statement_timeout = {timeout_ms}
