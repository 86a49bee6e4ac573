//! Why events were not accepted.

use std::time::Duration;

use crate::ingest::journal::{self, AppendError};

/// Why the journal accepts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The journal has its maximum size.
    Full,
    /// The file system is nearly full.
    MinFree,
    /// The file system is full.
    NoSpace,
    /// The system has no descriptors or memory left.
    Shortage,
    /// The journal's folder was removed or replaced.
    Gone,
    /// A write or a sync failed; nothing is accepted until a restart.
    Failed,
    /// Events that belong together are larger than a segment.
    TooLarge,
}

impl Refusal {
    /// The states of a journal that accepts nothing, as named by health and metrics.
    pub const STATES: [&str; 6] = ["full", "disk_low", "disk_full", "shortage", "gone", "failed"];

    /// Its name among [`Self::STATES`].
    pub fn state(self) -> &'static str {
        let [full, disk_low, disk_full, shortage, gone, failed] = Self::STATES;
        match self {
            Self::Full => full,
            Self::MinFree => disk_low,
            Self::NoSpace => disk_full,
            Self::Shortage => shortage,
            Self::Gone => gone,
            Self::Failed | Self::TooLarge => failed,
        }
    }

    /// Its text in a dead letter's `error`.
    fn message(self) -> &'static str {
        match self {
            Self::Full => "the journal was full",
            Self::MinFree => "the journal's file system was nearly full",
            Self::NoSpace => "the journal's file system was full",
            Self::Shortage => "the system had no descriptors or memory for the journal",
            Self::Gone => "the journal's folder was removed or replaced",
            Self::Failed => "the journal had failed",
            Self::TooLarge => "the event was larger than a segment of the journal",
        }
    }
}

impl From<&AppendError> for Refusal {
    fn from(error: &AppendError) -> Self {
        match error {
            AppendError::NoSpace(_) | AppendError::InDoubt(_) => Self::NoSpace,
            AppendError::Shortage(_) => Self::Shortage,
            AppendError::Gone => Self::Gone,
            AppendError::Full => Self::Full,
            AppendError::MinFree => Self::MinFree,
            AppendError::TooLarge => Self::TooLarge,
            AppendError::Poisoned(_) => Self::Failed,
        }
    }
}

impl From<journal::Refusal> for Refusal {
    fn from(refusal: journal::Refusal) -> Self {
        match refusal {
            journal::Refusal::Full => Self::Full,
            journal::Refusal::MinFree => Self::MinFree,
            journal::Refusal::NoSpace => Self::NoSpace,
            journal::Refusal::Shortage => Self::Shortage,
            journal::Refusal::Gone => Self::Gone,
            journal::Refusal::Poisoned => Self::Failed,
        }
    }
}

/// Events that were not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The queue had no capacity in time.
    Overloaded {
        /// When to retry: the time that the queue needs to drain, jittered, at least a second.
        retry_after: Duration,
    },
    /// The journal accepts nothing.
    Journal(Refusal),
    /// They were written, but the sync failed: they may or may not exist after a restart.
    OutcomeUnknown,
}

impl Refused {
    /// The value of its label in metrics.
    pub(in crate::ingest) fn reason(self) -> &'static str {
        match self {
            Self::Overloaded { .. } => "overload",
            Self::Journal(_) | Self::OutcomeUnknown => "journal",
        }
    }

    /// Its text in a dead letter's `error`.
    pub(in crate::ingest) fn message(self) -> &'static str {
        match self {
            Self::Overloaded { .. } => "the queue was full",
            Self::Journal(refusal) => refusal.message(),
            Self::OutcomeUnknown => "the journal could not be synced",
        }
    }
}
