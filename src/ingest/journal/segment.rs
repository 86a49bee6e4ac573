//! One segment as it is known in memory, and its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::JournalId;
use super::files::File;
use super::format::Salt;

/// What ends the name of a segment.
const EXTENSION: &str = "seg";

/// A segment on disk.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) salt: Salt,
    /// `None` for one that should be there and is not.
    pub(super) file: Option<Arc<dyn File>>,
    pub(super) path: PathBuf,
    pub(super) created_ms: u64,
    /// The sequence of its first event.
    pub(super) first: u64,
    /// The sequence after its last that was synced.
    pub(super) end: u64,
    /// Up to where it was synced, in bytes.
    pub(super) used: u64,
    /// Its size.
    pub(super) bytes: u64,
    /// Postgres has all of it for good.
    pub(super) kept: bool,
}

/// The name of a segment's file.
pub(super) fn name(salt: Salt) -> String {
    format!("{}-{:08}.{EXTENSION}", salt.journal.0, salt.number)
}

/// What the name of a file tells, if it is a segment's.
pub(super) fn parse_name(path: &Path) -> Option<Salt> {
    if path.extension()? != EXTENSION {
        return None;
    }
    let (journal, number) = path.file_stem()?.to_str()?.rsplit_once('-')?;
    Some(Salt { journal: JournalId(Uuid::try_parse(journal).ok()?), number: number.parse().ok()? })
}
