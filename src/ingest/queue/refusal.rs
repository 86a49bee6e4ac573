//! Why events were not accepted.

use std::time::Duration;

use crate::ingest::journal::{self, AppendError};

/// Why the journal takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It holds as much as it may.
    Full,
    /// The file system is nearly full.
    MinFree,
    /// The file system is full.
    NoSpace,
    /// The system has no descriptors or memory for it.
    Shortage,
    /// Its folder was removed or replaced.
    Gone,
    /// Writing or syncing failed; it takes nothing until a restart.
    Failed,
    /// What is to be kept together is larger than a segment.
    TooLarge,
}

impl Refusal {
    /// The states of a journal that takes nothing, as health and metrics name them.
    pub const STATES: [&str; 6] = ["full", "disk_low", "disk_full", "shortage", "gone", "failed"];

    /// Which of [`Self::STATES`] it is.
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

    /// What a dead letter says of it.
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
    /// There was no room within the time that they may wait.
    Overloaded {
        /// When it is worth another try: the time that the queue needs to drain, jittered, at least a second.
        retry_after: Duration,
    },
    /// The journal takes nothing.
    Journal(Refusal),
    /// They were written and not synced: they may turn up after a restart, or not.
    OutcomeUnknown,
}

impl Refused {
    /// The label under which it is counted.
    pub(in crate::ingest) fn reason(self) -> &'static str {
        match self {
            Self::Overloaded { .. } => "overload",
            Self::Journal(_) | Self::OutcomeUnknown => "journal",
        }
    }

    /// What a dead letter says of it.
    pub(in crate::ingest) fn message(self) -> &'static str {
        match self {
            Self::Overloaded { .. } => "the queue was full",
            Self::Journal(refusal) => refusal.message(),
            Self::OutcomeUnknown => "the journal could not be synced",
        }
    }
}
