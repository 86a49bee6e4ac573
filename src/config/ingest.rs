//! Events: what is taken, how it is queued, and how it is written.

use serde::Deserialize;

use super::{ConfigError, IngestConfig, JournalConfig, refuse};

/// What a promise survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing: an accepted event is in memory until it is in Postgres.
    Memory,
    /// The process's end and the machine's: an accepted event is in a synced journal until it is in Postgres.
    Disk,
}

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
