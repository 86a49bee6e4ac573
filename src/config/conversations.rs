//! Conversations and their messages.

use serde::Deserialize;

use super::{Kind, Setting};

/// Conversations and their messages.
#[derive(Debug, Clone, Deserialize)]
pub struct ConversationsConfig {
    /// Group commits at once.
    pub conversations_writers: usize,
    /// Connections for all else.
    pub conversations_connections: usize,
    /// Bytes of what waits for its group.
    pub conversations_queue_bytes: usize,
    /// Milliseconds that a request waits for one.
    pub conversations_wait_ms: u64,
    /// Milliseconds that a statement may take.
    pub conversations_timeout_ms: u64,
    /// Bytes of a title.
    pub max_title_bytes: usize,
    /// Bytes of a message's content, however many pieces it came in.
    pub max_message_bytes: usize,
    /// Bytes of the metadata of a conversation or a message.
    pub max_metadata_bytes: usize,
    /// Messages of one request.
    pub max_messages_per_append: usize,
    /// Bytes of a request's body.
    pub max_messages_body_bytes: usize,
    /// Seconds that an `Idempotency-Key` is remembered.
    pub idempotency_retention_s: u64,
    /// Milliseconds between two looks for what search does not know yet.
    pub search_interval_ms: u64,
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "CONVERSATIONS_WRITERS",
        default: "2",
        kind: Kind::Int { min: 1, max: 64, unit: "connections" },
        help: "Share of the pool in which new conversations, messages and pieces are committed, each connection a group at a time.",
    },
    Setting {
        name: "CONVERSATIONS_CONNECTIONS",
        default: "4",
        kind: Kind::Int { min: 1, max: 1_000, unit: "connections" },
        help: "Share of the pool for all else that conversations need: look-ups, lists, pages, changes, followers, search.",
    },
    Setting {
        name: "CONVERSATIONS_QUEUE_BYTES",
        default: "67108864",
        kind: Kind::Int { min: 16_777_216, max: 1_073_741_824, unit: "bytes" },
        help: "Bytes of what waits to be committed or looked up in conversations, at least 1 KiB each; beyond it 503.",
    },
    Setting {
        name: "CONVERSATIONS_WAIT_MS",
        default: "2000",
        kind: Kind::Int { min: 1, max: 60_000, unit: "milliseconds" },
        help: "Time that a request waits for its turn or for a connection of its share; then 503.",
    },
    Setting {
        name: "CONVERSATIONS_TIMEOUT_MS",
        default: "5000",
        kind: Kind::Int { min: 10, max: 600_000, unit: "milliseconds" },
        help: "Time of one statement on conversations (statement_timeout); then 504.",
    },
    Setting {
        name: "MAX_TITLE_BYTES",
        default: "1024",
        kind: Kind::Int { min: 16, max: 65_536, unit: "bytes" },
        help: "Size of a conversation's title in UTF-8; a longer one is answered 413.",
    },
    Setting {
        name: "MAX_MESSAGE_BYTES",
        default: "262144",
        kind: Kind::Int { min: 1_024, max: 16_777_216, unit: "bytes" },
        help: "Size of a message's content in UTF-8, whole or in pieces; a larger one is answered 413.",
    },
    Setting {
        name: "MAX_METADATA_BYTES",
        default: "65536",
        kind: Kind::Int { min: 2, max: 1_048_576, unit: "bytes" },
        help: "Size of the metadata of a conversation or a message, without white space; larger ones are answered 413.",
    },
    Setting {
        name: "MAX_MESSAGES_PER_APPEND",
        default: "100",
        kind: Kind::Int { min: 1, max: 10_000, unit: "messages" },
        help: "Messages of one request, which are stored together.",
    },
    Setting {
        name: "MAX_MESSAGES_BODY_BYTES",
        default: "4194304",
        kind: Kind::Int { min: 16_384, max: 268_435_456, unit: "bytes" },
        help: "Size of a request's body on conversations, decompressed too; a larger one is answered 413.",
    },
    Setting {
        name: "IDEMPOTENCY_RETENTION_S",
        default: "86400",
        kind: Kind::Int { min: 60, max: 2_592_000, unit: "seconds" },
        help: "Time for which the Idempotency-Key of messages is remembered.",
    },
    Setting {
        name: "SEARCH_INTERVAL_MS",
        default: "1000",
        kind: Kind::Int { min: 50, max: 600_000, unit: "milliseconds" },
        help: "Time between two looks for messages and titles that search does not find yet.",
    },
];
