//! Events: what is taken, how it is queued, and how it is written.

use serde::Deserialize;

use super::{ConfigError, Kind, Setting, refuse};

/// Queue and writer.
#[derive(Debug, Clone, Deserialize)]
pub struct IngestConfig {
    /// What a promise survives.
    pub durability: Durability,
    /// Events that start a flush.
    pub batch_size: u64,
    /// Milliseconds that an event waits for others.
    pub flush_interval_ms: u64,
    /// Connections that COPY at once.
    pub writers: usize,
    /// Bytes of tuples in one COPY.
    pub max_copy_bytes: u64,
    /// Seconds after which a COPY is given up and tried again.
    pub copy_timeout_s: u64,
    /// Events held.
    pub max_queue_size: u64,
    /// Bytes held.
    pub max_queue_bytes: u64,
    /// Milliseconds that an event waits for room.
    pub admit_wait_ms: u64,
    /// Bytes of events that wait for room.
    pub max_waiting_bytes: u64,
    /// Bytes of one event.
    pub max_event_bytes: usize,
    /// Bytes of one batch, decompressed.
    pub max_batch_bytes: usize,
    /// Events in one batch; see [`IngestConfig::max_batch_events`].
    max_batch_events: Option<u64>,
    /// Levels of JSON up to which it becomes jsonb.
    pub max_json_depth: usize,
    /// Milliseconds that a request waits for its events to be committed, if it asks for that.
    pub ack_timeout_ms: u64,
    /// Seconds for which a key keeps a second event with it from being stored.
    pub idempotency_window_s: u64,
}

/// What a promise survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing: an accepted event is in memory until it is in Postgres.
    Memory,
    /// The process's end and the machine's: an accepted event is in a synced journal until it is in Postgres.
    Disk,
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "DURABILITY",
        default: "disk",
        kind: Kind::OneOf(&["memory", "disk"]),
        help: "Where an accepted event is until it is in Postgres: in memory, or in a synced journal in DATA_DIR.",
    },
    Setting {
        name: "BATCH_SIZE",
        default: "1000",
        kind: Kind::Int { min: 1, max: 1_000_000, unit: "events" },
        help: "Events that start a flush.",
    },
    Setting {
        name: "FLUSH_INTERVAL_MS",
        default: "25",
        kind: Kind::Int { min: 1, max: 60_000, unit: "milliseconds" },
        help: "The longest that an event waits for others before a flush starts.",
    },
    Setting {
        name: "WRITERS",
        default: "2",
        kind: Kind::Int { min: 1, max: 64, unit: "connections" },
        help: "Connections of the pool that COPY at once.",
    },
    Setting {
        name: "MAX_COPY_BYTES",
        default: "4194304",
        kind: Kind::Int { min: 65_536, max: 1_073_741_824, unit: "bytes" },
        help: "Size of one COPY, as it is sent.",
    },
    Setting {
        name: "COPY_TIMEOUT_S",
        default: "60",
        kind: Kind::Int { min: 1, max: 3_600, unit: "seconds" },
        help: "Time after which a COPY is given up and tried again.",
    },
    Setting {
        name: "MAX_QUEUE_SIZE",
        default: "200000",
        kind: Kind::Int { min: 1, max: 10_000_000, unit: "events" },
        help: "Events held in memory: not yet journaled, or without a journal not yet in Postgres.",
    },
    Setting {
        name: "MAX_QUEUE_BYTES",
        default: "268435456",
        kind: Kind::Int { min: 1_048_576, max: 549_755_813_888, unit: "bytes" },
        help: "Bytes of the events held.",
    },
    Setting {
        name: "ADMIT_WAIT_MS",
        default: "100",
        kind: Kind::Int { min: 0, max: 60_000, unit: "milliseconds" },
        help: "Time that an event waits for room in a full queue before it is refused with 503.",
    },
    Setting {
        name: "MAX_WAITING_BYTES",
        default: "67108864",
        kind: Kind::Int { min: 0, max: 549_755_813_888, unit: "bytes" },
        help: "Bytes of the events that wait for room; beyond it they are refused at once.",
    },
    Setting {
        name: "MAX_EVENT_BYTES",
        default: "1048576",
        kind: Kind::Int { min: 1, max: 16_777_216, unit: "bytes" },
        help: "Size of one event's body, decompressed; a larger one is answered 413.",
    },
    Setting {
        name: "MAX_BATCH_BYTES",
        default: "33554432",
        kind: Kind::Int { min: 1, max: 268_435_456, unit: "bytes" },
        help: "Size of one batch's body, decompressed too; a larger one is answered 413.",
    },
    Setting {
        name: "MAX_BATCH_EVENTS",
        default: "",
        kind: Kind::Int { min: 1, max: 10_000_000, unit: "events" },
        help: "Events in one batch; more are answered 413. At most, and unset up to 100000: MAX_QUEUE_SIZE.",
    },
    Setting {
        name: "MAX_JSON_DEPTH",
        default: "1000",
        kind: Kind::Int { min: 1, max: 5_000, unit: "levels" },
        help: "Nesting up to which JSON is stored as jsonb; deeper, its bytes are kept in body.",
    },
    Setting {
        name: "ACK_TIMEOUT_MS",
        default: "5000",
        kind: Kind::Int { min: 1, max: 600_000, unit: "milliseconds" },
        help: "Time that a request with ack=committed waits; then it is told what was reached.",
    },
    Setting {
        name: "IDEMPOTENCY_WINDOW_S",
        default: "86400",
        kind: Kind::Int { min: 1, max: 31_536_000, unit: "seconds" },
        help: "Time for which a key keeps a second event with it from being stored.",
    },
];

/// The journal.
#[derive(Debug, Clone, Deserialize)]
pub struct JournalConfig {
    /// Bytes of one of its files; unset: [`JournalConfig::segment_bytes`].
    pub journal_segment_bytes: Option<u64>,
    /// Bytes that Postgres does not have yet.
    pub journal_max_bytes: u64,
    /// Bytes kept after Postgres has them; unset: [`JournalConfig::keep_bytes`].
    pub journal_keep_bytes: Option<u64>,
    /// Bytes of the file system that are left to others.
    pub journal_min_free: u64,
}

pub(super) const JOURNAL_SETTINGS: &[Setting] = &[
    Setting {
        name: "JOURNAL_MAX_BYTES",
        default: "8589934592",
        kind: Kind::Int { min: 16_777_216, max: 1_099_511_627_776, unit: "bytes" },
        help: "Journal that Postgres does not have yet; beyond it events are refused with 503.",
    },
    Setting {
        name: "JOURNAL_KEEP_BYTES",
        default: "",
        kind: Kind::Int { min: 0, max: 1_099_511_627_776, unit: "bytes" },
        help: "Journal kept after Postgres has it, to be stored again if Postgres goes back in time. Unset: 268435456, and at most half of JOURNAL_MAX_BYTES.",
    },
    Setting {
        name: "JOURNAL_MIN_FREE",
        default: "536870912",
        kind: Kind::Int { min: 0, max: 1_099_511_627_776, unit: "bytes" },
        help: "Free space of the journal's file system below which events are refused with 503.",
    },
    Setting {
        name: "JOURNAL_SEGMENT_BYTES",
        default: "",
        kind: Kind::Int { min: 4_194_304, max: 1_073_741_824, unit: "bytes" },
        help: "Size of each of the journal's files; a batch must fit into one. Unset: 67108864, and at most a quarter of JOURNAL_MAX_BYTES.",
    },
];

/// The dead-letter queue.
#[derive(Debug, Clone, Deserialize)]
pub struct DeadLetterConfig {
    /// Milliseconds between flushes.
    pub dead_flush_interval_ms: u64,
    /// Dead letters held.
    pub max_dead_queue_size: u64,
    /// Bytes of dead letters held.
    pub max_dead_queue_bytes: u64,
}

pub(super) const DEAD_LETTER_SETTINGS: &[Setting] = &[
    Setting {
        name: "DEAD_FLUSH_INTERVAL_MS",
        default: "250",
        kind: Kind::Int { min: 1, max: 60_000, unit: "milliseconds" },
        help: "How often dead letters are stored.",
    },
    Setting {
        name: "MAX_DEAD_QUEUE_SIZE",
        default: "100000",
        kind: Kind::Int { min: 1, max: 10_000_000, unit: "dead letters" },
        help: "Dead letters held until they are stored; beyond it overloads are dropped and counted.",
    },
    Setting {
        name: "MAX_DEAD_QUEUE_BYTES",
        default: "67108864",
        kind: Kind::Int { min: 65_536, max: 549_755_813_888, unit: "bytes" },
        help: "Bytes of the dead letters held.",
    },
];

/// What [`JournalConfig::keep_bytes`] is where neither it nor a small `JOURNAL_MAX_BYTES` is set.
const DEFAULT_KEEP_BYTES: u64 = 256 * 1024 * 1024;

/// What [`JournalConfig::segment_bytes`] is where neither it nor a small `JOURNAL_MAX_BYTES` is set.
const DEFAULT_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

impl JournalConfig {
    /// Bytes of one of its files: the journal grows by whole files, so a few of them are within `JOURNAL_MAX_BYTES`.
    pub fn segment_bytes(&self) -> u64 {
        self.journal_segment_bytes.unwrap_or(DEFAULT_SEGMENT_BYTES.min(self.journal_max_bytes / 4))
    }

    /// Bytes kept after Postgres has them.
    pub fn keep_bytes(&self) -> u64 {
        self.journal_keep_bytes.unwrap_or(DEFAULT_KEEP_BYTES.min(self.journal_max_bytes / 2))
    }
}

/// What a row takes beside its body at the most: a trace id, a media type as long as a head may be, an error's text.
pub(super) const TUPLE_OVERHEAD_BYTES: u64 = 64 * 1024;

/// What [`IngestConfig::max_batch_events`] is where neither it nor a smaller queue is set.
const DEFAULT_MAX_BATCH_EVENTS: u64 = 100_000;

impl IngestConfig {
    /// Events in one batch: never more than the queue holds.
    pub fn max_batch_events(&self) -> u64 {
        self.max_batch_events.unwrap_or(DEFAULT_MAX_BATCH_EVENTS.min(self.max_queue_size))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.max_batch_events() > self.max_queue_size {
            return Err(refuse(
                "MAX_BATCH_EVENTS",
                self.max_batch_events(),
                format!("at most MAX_QUEUE_SIZE, {}", self.max_queue_size),
            ));
        }
        Ok(())
    }
}
