//! Conversations and their messages.

use serde::Deserialize;

use super::{Kind, Setting};

/// Conversations and their messages.
#[derive(Debug, Clone, Deserialize)]
pub struct ConversationsConfig {
    /// Connections.
    pub conversations_connections: usize,
    /// Milliseconds that a request waits for one.
    pub conversations_wait_ms: u64,
    /// Milliseconds that a statement may take.
    pub conversations_timeout_ms: u64,
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "CONVERSATIONS_CONNECTIONS",
        default: "4",
        kind: Kind::Int { min: 1, max: 1_000, unit: "connections" },
        help: "Share of the pool for conversations and their messages.",
    },
    Setting {
        name: "CONVERSATIONS_WAIT_MS",
        default: "2000",
        kind: Kind::Int { min: 1, max: 60_000, unit: "milliseconds" },
        help: "Time that a request waits for a connection of that share; then 503.",
    },
    Setting {
        name: "CONVERSATIONS_TIMEOUT_MS",
        default: "5000",
        kind: Kind::Int { min: 10, max: 600_000, unit: "milliseconds" },
        help: "Time of one statement on conversations (statement_timeout); then 504.",
    },
];
