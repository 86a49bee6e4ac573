//! The journal: accepted events, held until Postgres has stored them.
//!
//! An interface with one implementation, a WAL on disk ([`disk`]). A second one, a replicated log, would offer the same
//! methods with the same contract; callers know nothing of files.
//!
//! # Contract
//!
//! [`JournalWriter`] has one owner, on one thread:
//!
//! | method | |
//! |---|---|
//! | `append` | adds a group of records, all of it or nothing; its events get the next sequences, from 0 on without gaps |
//! | `flush` | makes all appended groups durable and visible to readers; only then may they be acknowledged |
//! | `mark` | records that everything before it was flushed, so that later damage at the end counts as damage |
//!
//! [`JournalReader`] is shared by all threads:
//!
//! | method | |
//! |---|---|
//! | `read` | returns flushed rows from a sequence on, in order, or reports the damage in their place |
//! | `held` | lists the journals, those of earlier processes included, with their first and last sequences |
//! | `trim` | releases sequences that are durable in Postgres |
//! | `usage`, `lost`, `accepting` | report bytes, losses and refusals |
//! | `is_registered`, `register` | the journals that the database knows |
//! | `maintain` | background work, repeated by a thread as long as the writer exists |
//!
//! * A journal is written by one process, once. Each start opens a journal with an id of its own, so a restored or cloned
//!   copy never assigns a sequence twice.
//! * A flushed row is read back byte for byte, or reported as damaged. A row that was never appended is never read.
//! * An appended row that was not flushed may survive a crash, but never without all rows before it. After a failed append
//!   or flush, none of the group survives, except after [`AppendError::InDoubt`] and [`AppendError::Poisoned`].
//! * Events stay readable until `trim` covers them. Damage is reported once per read and counted in `lost` until an
//!   operator acknowledges it.
//! * All methods block, on the disk or the network.

pub mod disk;
mod error;
pub mod tuple;

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

pub use disk::{JournalReader, JournalWriter, Loss, LossState};
pub use error::{AppendError, JournalError, Refusal};

/// Id of a journal: the events that one process appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JournalId(pub Uuid);

impl std::fmt::Display for JournalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Hash of an event's idempotency key.
pub type Key = [u8; 16];

/// Events that are appended together: one, or a chunk of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    /// Consecutive encoded [tuples](mod@tuple).
    pub rows: &'a [u8],
    /// Number of tuples.
    pub events: u32,
    /// Keys of some events, each with the event's index in these records.
    pub keys: &'a [(u32, Key)],
}

/// Result of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalRead {
    /// Rows as they were appended.
    Rows(JournalRows),
    /// Flushed events that can no longer be read.
    Damaged {
        /// The first missing sequence.
        from: u64,
        /// One past the last missing sequence.
        until: u64,
        /// Location of their bytes, for reports.
        at: disk::DamagedBytes,
    },
}

/// Rows of consecutive sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalRows {
    /// The first sequence.
    pub from: u64,
    /// One past the last sequence.
    pub until: u64,
    /// Keys with the sequences of their events, in order.
    pub keys: Vec<(u64, Key)>,
    /// The rows, and the bytes between them.
    pub(crate) buffer: Vec<u8>,
    /// Ranges of the rows in the buffer, in order.
    pub(crate) ranges: Vec<Range<usize>>,
}

impl JournalRows {
    /// The rows, as slices of consecutive tuples.
    pub fn rows(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.ranges.iter().map(|range| self.buffer.get(range.clone()).unwrap_or_default())
    }
}

/// A journal and its sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldJournal {
    /// The journal.
    pub journal: JournalId,
    /// The first sequence held.
    pub first: u64,
    /// One past the last flushed sequence.
    pub end: u64,
    /// Whether this process appends to it.
    pub current: bool,
    /// When it was opened, in microseconds of Unix time; 0 if unknown.
    pub created_at_us: i64,
    /// The columns that its rows fill; empty if unknown.
    pub columns: Arc<str>,
    /// Number of segments.
    pub segments: usize,
}

/// Bytes in storage, in whole segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes with events that are not covered yet: what the limit bounds.
    pub uncovered_bytes: u64,
    /// Bytes of covered events, kept for a rewind.
    pub kept_bytes: u64,
    /// Number of segments, without the spare one.
    pub segments: usize,
    /// Free bytes of the storage, as last read.
    pub free_bytes: u64,
    /// Damaged bytes that were put aside.
    pub quarantined: Quarantined,
}

/// Damaged bytes that were put aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quarantined {
    /// Number of copies.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Acknowledged events that the journal lost, until an operator acknowledges the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Number of unacknowledged losses.
    pub losses: u64,
    /// Their events; one for a loss of unknown size.
    pub events: u64,
}
