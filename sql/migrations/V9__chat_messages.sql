-- Messages as chat SDKs send them.

-- What a message says beside its text, as it was sent: `content` in parts (or null), and members such as `tool_calls`. Null: it
-- is a text alone. The text of the parts is in `content` too, which is what is searched.
alter table {schema}.messages add column extra jsonb;

-- The rows that are there keep the old, narrower check, so they need not be read again.
alter table {schema}.messages drop constraint messages_role_check;
alter table {schema}.messages add constraint messages_role_check
    check (role in ('system', 'developer', 'user', 'assistant', 'tool', 'function')) not valid;
