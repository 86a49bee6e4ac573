//! Damage: synced bytes that cannot be used, and the events in them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::JournalId;

/// Why bytes of the journal cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// They differ from the written bytes.
    Corrupt,
    /// The disk cannot read them.
    Unreadable,
    /// Their file is missing.
    Missing,
}

impl Cause {
    /// A phrase for messages.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Corrupt => "not what was written",
            Self::Unreadable => "unreadable on the disk",
            Self::Missing => "missing",
        }
    }
}

/// Synced events that can no longer be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The journal.
    pub journal: JournalId,
    /// The first missing sequence.
    pub from: u64,
    /// One past the last missing sequence.
    pub until: u64,
    /// Location of their bytes.
    pub at: DamagedBytes,
}

/// Bytes of a segment that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedBytes {
    /// The segment.
    pub segment: PathBuf,
    /// Its number within the journal.
    pub number: u64,
    /// Offset of the bytes in the segment.
    pub offset: u64,
    /// Number of bytes; 0 if the segment is missing, or ends before.
    pub bytes: u64,
    /// Copy of the bytes, if one was made.
    pub copy: Option<PathBuf>,
    /// Why they cannot be used.
    pub cause: Cause,
}

impl std::fmt::Display for DamagedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { segment, offset, bytes, cause, .. } = self;
        write!(f, "{} at offset {offset}, {bytes} bytes, {}", segment.display(), cause.describe())
    }
}

impl DamagedBytes {
    /// Those of a missing segment.
    pub(super) fn missing(segment: PathBuf, number: u64) -> Self {
        Self { segment, number, offset: 0, bytes: 0, copy: None, cause: Cause::Missing }
    }
}
