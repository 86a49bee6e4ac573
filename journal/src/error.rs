//! Errors of a journal.

use super::JournalId;
use super::disk::DiskError;

/// Events cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The sequence was trimmed, was never flushed, or belongs to an unknown journal.
    #[error("sequence {sequence} of journal {journal} is not held")]
    NotHeld {
        /// The journal.
        journal: JournalId,
        /// The requested sequence.
        sequence: u64,
    },
    /// The reading thread panicked.
    #[error("the read panicked: {0}")]
    Panicked(String),
    /// The storage failed. A later read may succeed.
    #[error(transparent)]
    Storage(#[from] DiskError),
}

/// Nothing of the group was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The storage has no room. A later append may succeed.
    #[error("the file system of the journal has no room")]
    NoSpace(#[source] std::io::Error),
    /// The limit of pending bytes is reached.
    #[error("the journal holds as many pending bytes as it may")]
    Full,
    /// The storage has less free space than the configured minimum.
    #[error("the file system of the journal has less free space than the configured minimum")]
    MinFree,
    /// The system has no descriptor or no memory left. A later append may succeed.
    #[error("the system has no descriptors or memory for the journal")]
    Shortage(#[source] std::io::Error),
    /// The storage was removed or replaced. An append succeeds once it is back.
    #[error("the folder of the journal was removed or replaced")]
    Gone,
    /// A flush failed for want of room, and so did the removal of the group: a crash may bring the group back. Nothing else
    /// is appended before the removal succeeds.
    #[error("the journal had no room for a sync, and the group may be there after a crash")]
    InDoubt(#[source] std::io::Error),
    /// The group exceeds [`JournalWriter::largest_group`](super::JournalWriter::largest_group).
    #[error("the group does not fit into a segment of the journal")]
    TooLarge,
    /// A write or a sync failed, so the content of the storage is unknown. Permanent: a failed sync is never retried, since
    /// the system may mark lost pages as clean.
    #[error("the journal failed and takes nothing until the service is started again: {0}")]
    Poisoned(String),
}

/// Why a journal accepts nothing now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The limit of pending bytes is reached.
    Full,
    /// The storage has less free space than the configured minimum.
    MinFree,
    /// The storage had no room a moment ago.
    NoSpace,
    /// The system had no descriptors or memory a moment ago.
    Shortage,
    /// The storage was removed or replaced.
    Gone,
    /// A write or a sync failed.
    Poisoned,
}
