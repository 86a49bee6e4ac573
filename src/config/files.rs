//! Files, and what is imported from them.

use serde::Deserialize;

use super::{Kind, Setting};

/// Files.
#[derive(Debug, Clone, Deserialize)]
pub struct FilesConfig {
    /// Connections.
    pub files_connections: usize,
    /// Milliseconds that a request waits for one.
    pub files_wait_ms: u64,
    /// Milliseconds that a statement may take.
    pub files_timeout_ms: u64,
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "FILES_CONNECTIONS",
        default: "2",
        kind: Kind::Int { min: 1, max: 1_000, unit: "connections" },
        help: "Share of the pool for files.",
    },
    Setting {
        name: "FILES_WAIT_MS",
        default: "2000",
        kind: Kind::Int { min: 1, max: 60_000, unit: "milliseconds" },
        help: "Time that a request waits for a connection of that share; then 503.",
    },
    Setting {
        name: "FILES_TIMEOUT_MS",
        default: "5000",
        kind: Kind::Int { min: 10, max: 600_000, unit: "milliseconds" },
        help: "Time of one statement on files (statement_timeout); then 504.",
    },
];

/// What is imported from files.
#[derive(Debug, Clone, Deserialize)]
pub struct ImportsConfig {
    /// Connections, each with a `COPY` at a time.
    pub import_writers: usize,
}

pub(super) const IMPORT_SETTINGS: &[Setting] = &[Setting {
    name: "IMPORT_WRITERS",
    default: "2",
    kind: Kind::Int { min: 1, max: 64, unit: "connections" },
    help: "Share of the pool in which lines of files are stored, each connection a COPY at a time.",
}];
