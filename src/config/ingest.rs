//! Events: what is taken, how it is queued, and how it is written.

use serde::Deserialize;

use super::{IngestConfig, JournalConfig, limits};

/// What a promise survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing: an accepted event is in memory until it is in Postgres.
    Memory,
    /// The process's end and the machine's: an accepted event is in a synced journal until it is in Postgres.
    Disk,
}

/// The most that is kept unless `JOURNAL_KEEP_BYTES` is set.
const DEFAULT_KEEP_BYTES: u64 = 256 * 1024 * 1024;

/// The least and the most that one of the journal's files has.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 4 * 1024 * 1024..=64 * 1024 * 1024;

impl JournalConfig {
    /// Bytes of one of its files: the journal grows by whole files, so a few of them are within `JOURNAL_MAX_BYTES`.
    pub fn segment_bytes(&self) -> u64 {
        (self.journal_max_bytes / 8).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end())
    }

    /// Bytes kept after Postgres has them.
    pub fn keep_bytes(&self) -> u64 {
        self.journal_keep_bytes.unwrap_or(DEFAULT_KEEP_BYTES.min(self.journal_max_bytes / 2))
    }
}

/// What a row takes beside its body at the most: a trace id, a media type as long as a head may be, an error's text.
pub(super) const TUPLE_OVERHEAD_BYTES: u64 = 64 * 1024;

impl IngestConfig {
    /// Bytes of a body that holds a record. `jsonb` writes a space after each comma and each colon, which makes of `[0,0]` half as
    /// much again, and a fetched record comes back with the members that the service made.
    pub fn max_record_body_bytes(&self) -> usize {
        self.max_event_bytes + self.max_event_bytes / 2 + 1024
    }

    /// Events in one batch: never more than the queue holds.
    pub fn max_batch_events(&self) -> u64 {
        limits::MAX_BATCH_EVENTS.min(self.max_queue_size)
    }
}
