-- Conversations and their messages.

-- `owner` is the user whose a conversation is; null: nobody's in particular, as where nobody has to say who he is.
create table {schema}.conversations (
    id uuid primary key,
    title text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    metadata jsonb not null default '{}',
    owner uuid references {schema}.users on delete cascade
);
-- Newest activity first, of one owner. `owner is null` orders no index that begins with the owner, hence one for each case.
create index conversations_of_owner on {schema}.conversations (owner, updated_at desc, id desc) where owner is not null;
create index conversations_of_nobody on {schema}.conversations (updated_at desc, id desc) where owner is null;

-- The order of a conversation's messages is (timestamp, id). Whoever adds messages holds the conversation's row, and gives
-- them times after its `updated_at`, a microsecond apart: so times rise strictly, and no column counts positions. What is
-- imported has times of its own, and may come before what is there.
create table {schema}.messages (
    id uuid primary key,
    conversation_id uuid not null references {schema}.conversations on delete cascade,
    role text collate "C" not null check (role in ('system', 'user', 'assistant', 'tool')),
    content text not null,
    timestamp timestamptz not null,
    token_count integer,
    metadata jsonb not null default '{}'
);
create index messages_in_order on {schema}.messages (conversation_id, timestamp, id);

-- Messages that are being written. `length` is in characters (Unicode code points), `bytes` in UTF-8; both count what the
-- message was made with too. A row here is small, so that a piece costs the same however long its message is.
create table {schema}.message_drafts (
    message_id uuid primary key references {schema}.messages on delete cascade,
    length integer not null,
    bytes integer not null
);
-- What was added to them, by where it begins; the message takes it in when it is done.
create table {schema}.message_pieces (
    message_id uuid not null references {schema}.message_drafts on delete cascade,
    at integer not null,
    content text not null,
    primary key (message_id, at)
);

-- What was sent with an Idempotency-Key: the SHA-256 of its body, and what became of it, so that it can be answered again.
create table {schema}.message_keys (
    conversation_id uuid not null references {schema}.conversations on delete cascade,
    key text collate "C" not null,
    hash bytea not null,
    ids uuid[] not null,
    first timestamptz not null,
    at timestamptz not null default now(),
    primary key (conversation_id, key)
);
create index message_keys_at on {schema}.message_keys (at);

-- `append`: text was added to a message that is being written. `import`: messages were added whose ids are between `first`
-- and `last` of `data`; one row for many.
alter table {schema}.changes drop constraint changes_action_check;
alter table {schema}.changes add constraint changes_action_check
    check (action in ('create', 'update', 'delete', 'append', 'import'));

-- Topics with a colon are those of one thing each, a conversation for instance: who follows one reads its changes alone. (The name
-- of a collection has no colon.)
create index changes_of_topic on {schema}.changes (topic, xid, number) where topic like '%:%';

-- The last change that was deleted since it was old: who was not past it has missed something.
create table {schema}.feed_floor (
    xid xid8 not null,
    number bigint not null
);
insert into {schema}.feed_floor values ('0', -1);

-- What is searched for: of each finished message and each title its words, filled behind the writes that make them (an index
-- for search on their path would cost a factor of ten). `id` is the message's, or for the title the conversation's. The words
-- hold one more, which names the owner: so the index finds a word among his own alone.
create table {schema}.search_documents (
    id uuid primary key,
    conversation_id uuid not null references {schema}.conversations on delete cascade,
    words tsvector not null
);
create index search_documents_words on {schema}.search_documents using gin (words);
create index search_documents_conversation on {schema}.search_documents (conversation_id);

-- Who reads the feed to its end, and how far he is: changes that he has not read are kept, however old they are. `part` is
-- the last of the messages that were read of an import which comes next.
create table {schema}.feed_readers (
    name text primary key,
    xid xid8 not null,
    number bigint not null,
    part uuid
);
insert into {schema}.feed_readers values ('search', '0', -1);
