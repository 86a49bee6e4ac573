//! What goes wrong with a journal.

use std::io;
use std::path::{Path, PathBuf};

use super::JournalId;

/// The journal cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error("the journal {} is in use by another process: a journal has one writer", .0.display())]
    Locked(PathBuf),
    /// A later version of the program wrote it. It is left as it is.
    #[error("{} has journal format {version}, and this version reads up to {}: run the newer version", file.display(), super::FORMAT_VERSION)]
    Newer {
        /// The segment.
        file: PathBuf,
        /// Its format.
        version: u32,
    },
    /// The settings do not go together.
    #[error("the journal's settings: {0}")]
    Settings(String),
    /// The sequence was trimmed, was never synced, or belongs to an unknown journal.
    #[error("sequence {sequence} of journal {journal} is not held")]
    NotHeld {
        /// The journal.
        journal: JournalId,
        /// The sequence asked for.
        sequence: u64,
    },
    /// The thread that read it panicked.
    #[error("the read panicked: {0}")]
    Panicked(String),
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl JournalError {
    /// Names what was tried with which file.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

/// Nothing of the group was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The file system has no room. A later append may find some.
    #[error("the file system of the journal has no room")]
    NoSpace(#[source] io::Error),
    /// The limit of pending bytes is reached.
    #[error("the journal holds as many pending bytes as it may")]
    Full,
    /// The file system has less room than is to be left free.
    #[error("the file system of the journal has less room than is to be left free")]
    MinFree,
    /// The system has no descriptor or no memory for it. A later append may find some.
    #[error("the system has no descriptors or memory for the journal")]
    Shortage(#[source] io::Error),
    /// The folder was removed or replaced. A later append succeeds once it is back.
    #[error("the folder of the journal was removed or replaced")]
    Gone,
    /// A sync failed for want of room, and so did taking the group back: a crash may bring it back. Nothing more is
    /// appended before it is taken back.
    #[error("the journal had no room for a sync, and the group may be there after a crash")]
    InDoubt(#[source] io::Error),
    /// The group does not fit into a segment.
    #[error("the group does not fit into a segment of the journal")]
    TooLarge,
    /// A write or a sync failed, so what is on disk is not known. For ever: a failed sync is never retried, since the
    /// system may call pages clean that it lost.
    #[error("the journal failed and takes nothing until the service is started again: {0}")]
    Poisoned(String),
}

/// Why nothing is accepted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The limit of pending bytes is reached.
    Full,
    /// Less room than is to be left free.
    MinFree,
    /// The file system had no room a moment ago.
    NoSpace,
    /// The system had no descriptors or memory a moment ago.
    Shortage,
    /// The folder was removed or replaced.
    Gone,
    /// A write or a sync failed.
    Poisoned,
}
