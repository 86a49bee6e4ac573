//! Records, the feed of their changes, and what the stress API has beside them.

use serde::Deserialize;

use super::{Kind, Setting, Switch};

/// Records and the feed of their changes.
#[derive(Debug, Clone, Deserialize)]
pub struct RecordsConfig {
    /// Whether a first write makes a collection; see [`super::Config::makes_collections`].
    pub(super) records_auto_create: Option<Switch>,
    /// Collections.
    pub max_collections: i64,
    /// Bytes of a record's own members as JSON, with all digits of its numbers and without white space.
    pub max_record_bytes: usize,
    /// Group commits at once.
    pub records_writers: usize,
    /// Connections for all else.
    pub records_connections: usize,
    /// Bytes of the records that wait for their commit.
    pub records_queue_bytes: usize,
    /// Milliseconds that a request waits for its turn.
    pub records_wait_ms: u64,
    /// Milliseconds that a statement may take.
    pub records_timeout_ms: u64,
    /// Bytes of a page.
    pub max_page_bytes: usize,
    /// Seconds that changes are kept.
    pub changes_retention_s: u64,
}

impl RecordsConfig {
    /// Bytes of a body that holds a record. `jsonb` writes a space after each comma and each colon, which makes of `[0,0]` half as
    /// much again, and a fetched record comes back with the members that the service made.
    pub fn max_record_body_bytes(&self) -> usize {
        self.max_record_bytes + self.max_record_bytes / 2 + 1024
    }
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "RECORDS_AUTO_CREATE",
        default: "",
        kind: Kind::Switch,
        help: "Makes a collection when its first record is written. Unset: on with AUTH=open, off with AUTH=required.",
    },
    Setting {
        name: "MAX_COLLECTIONS",
        default: "1000",
        kind: Kind::Int { min: 1, max: 1_000_000, unit: "collections" },
        help: "Collections of records; a write that would make a further one is answered 409.",
    },
    Setting {
        name: "MAX_RECORD_BYTES",
        default: "1048576",
        kind: Kind::Int { min: 1_024, max: 16_777_216, unit: "bytes" },
        help: "Size of a record as it is stored, without white space; a larger one is answered 413.",
    },
    Setting {
        name: "RECORDS_WRITERS",
        default: "2",
        kind: Kind::Int { min: 1, max: 64, unit: "connections" },
        help: "Share of the pool in which created records are committed, each connection a group at a time.",
    },
    Setting {
        name: "RECORDS_CONNECTIONS",
        default: "6",
        kind: Kind::Int { min: 1, max: 1_000, unit: "connections" },
        help: "Share of the pool for all else that records need: look-ups, lists, changes.",
    },
    Setting {
        name: "RECORDS_QUEUE_BYTES",
        default: "67108864",
        kind: Kind::Int { min: 16_777_216, max: 1_073_741_824, unit: "bytes" },
        help: "Bytes of the records that wait to be committed or looked up, at least 1 KiB each; beyond it 503.",
    },
    Setting {
        name: "RECORDS_WAIT_MS",
        default: "2000",
        kind: Kind::Int { min: 1, max: 60_000, unit: "milliseconds" },
        help: "Time that a request waits for a connection of its share; then 503.",
    },
    Setting {
        name: "RECORDS_TIMEOUT_MS",
        default: "5000",
        kind: Kind::Int { min: 10, max: 600_000, unit: "milliseconds" },
        help: "Time of one statement on records (statement_timeout); then 504.",
    },
    Setting {
        name: "MAX_PAGE_BYTES",
        default: "8388608",
        kind: Kind::Int { min: 65_536, max: 268_435_456, unit: "bytes" },
        help: "Size of a list's answer: a page ends early after the record that passes it.",
    },
    Setting {
        name: "CHANGES_RETENTION_S",
        default: "86400",
        kind: Kind::Int { min: 1, max: 31_536_000, unit: "seconds" },
        help: "Time for which the feed keeps a change.",
    },
];

/// The stress API's own: errors on demand and large payloads.
#[derive(Debug, Clone, Deserialize)]
pub struct LargeConfig {
    /// Connections for large payloads.
    pub large_connections: usize,
    /// Connections for errors on demand.
    pub error_connections: usize,
    /// Bytes a second that a large payload is to come or go with at least.
    pub large_min_rate: u64,
    /// Milliseconds that an error on demand may take.
    pub max_stress_delay_ms: u64,
    /// Bytes of a large payload.
    pub max_large_payload_bytes: usize,
    /// Large payloads on their way at once.
    pub max_large_in_flight: usize,
}

pub(super) const LARGE_SETTINGS: &[Setting] = &[
    Setting {
        name: "LARGE_CONNECTIONS",
        default: "3",
        kind: Kind::Int { min: 1, max: 1_000, unit: "connections" },
        help: "Share of the pool for large payloads.",
    },
    Setting {
        name: "ERROR_CONNECTIONS",
        default: "1",
        kind: Kind::Int { min: 1, max: 1_000, unit: "connections" },
        help: "Share of the pool for errors on demand.",
    },
    Setting {
        name: "LARGE_MIN_RATE",
        default: "262144",
        kind: Kind::Int { min: 1, max: 1_073_741_824, unit: "bytes a second" },
        help: "What a client sends or reads of a large payload at least, beside BODY_TIMEOUT_S; a slower one is cut off.",
    },
    Setting {
        name: "MAX_STRESS_DELAY_MS",
        default: "30000",
        kind: Kind::Int { min: 1, max: 600_000, unit: "milliseconds" },
        help: "The longest delay_ms of /api/stress/error/timeout.",
    },
    Setting {
        name: "MAX_LARGE_PAYLOAD_BYTES",
        default: "67108864",
        kind: Kind::Int { min: 1_024, max: 1_073_741_824, unit: "bytes" },
        help: "Size of a large payload, decompressed too; a larger one is answered 413.",
    },
    Setting {
        name: "MAX_LARGE_IN_FLIGHT",
        default: "4",
        kind: Kind::Int { min: 1, max: 1_000, unit: "payloads" },
        help: "Large payloads on their way at once, in or out; beyond it 503.",
    },
];
