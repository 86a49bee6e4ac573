//! The journal: what makes an accepted event survive the process and the machine's power.
//!
//! # Constraints
//!
//! * An event is accepted when a sync that came after its write has succeeded. Nothing that was not synced is ever read.
//! * One process writes, to a journal of its own with a new id: a folder that was restored or cloned never goes on with
//!   sequences that a receipt calls settled.
//! * A failed sync is never tried again: the kernel may have dropped the pages, and a second one would succeed without
//!   them. The journal is poisoned until a restart reads what is really there.
//! * Damage costs what is damaged, and is told from the torn end of a write that nobody was promised.
//! * Memory does not grow with the backlog: no index of events or blocks is held.
//!
//! # Format
//!
//! `DATA_DIR/journal` holds `<journal>-<number>.seg` files of `JOURNAL_SEGMENT_BYTES`, zero-filled ahead or recycled, since
//! syncing a write that grows a file costs twice as much. All integers are little-endian.
//!
//! ```text
//! segment │ header, 4096 bytes │ block │ block │ … │ zeros, or what a recycled file held before
//! header  │ "TIDEGATE" │ version u32 │ journal 16 │ number u32 │ first sequence u64 │ end of the segment before u64 │
//!         │ created, unix ms u64 │ length u16, columns of the rows │ zeros │ crc32 of all before
//! block   │ "TGB1" │ length u32 │ rows u32 │ events u32 │ keys u32 │ first sequence u64 │ write u64 │ synced before u64 │
//!         │ crc32 │ rows: COPY tuples, one behind the other │ keys: (event's place u32, 16 bytes) … │ zeros up to 4096 · n
//! ```
//!
//! A block's checksum covers the journal, the segment's number, the block's offset, its header, rows and keys. So neither
//! what a recycled file held before nor a block that was moved is taken for valid.
//!
//! # Rules
//!
//! * A write is one or more blocks of one segment, then one sync. `synced before` is the offset up to which everything
//!   was synced when the block was written.
//! * Reading on after a bad block at X: if a later block of the segment was written when X had been synced, or a later
//!   segment begins behind X, then X was promised and is *damaged*: it is quarantined, and reading goes on there. If
//!   not, X is a torn end and is cut.
//! * So that a damaged last block is told from a torn one, an empty block is written behind it once nothing follows.
//! * `write` rises with each write, failed ones too, and never falls within a segment: what a failed write left behind the
//!   one that took its place is not taken for a part of it.

mod append;
mod files;
mod format;
mod read;
mod recover;
mod segment;
mod store;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

pub use append::Appender;
pub use files::{File, Files, Lock, SystemFiles};
pub use recover::{Recovered, inspect, open};
pub use store::{Held, SegmentInfo, SegmentState, Store, Usage};

use super::id::Tag;
pub use super::keys::Key;

/// Where the journal is, and how large it gets.
#[derive(Debug, Clone)]
pub struct JournalSettings {
    /// Its folder.
    pub dir: PathBuf,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes that are not trimmed yet, beyond which nothing is taken.
    pub max_bytes: u64,
    /// Bytes of trimmed segments that are kept.
    pub keep_bytes: u64,
    /// Free bytes of the file system below which nothing is taken.
    pub min_free: u64,
}

/// A journal: what one process wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JournalId(pub Uuid);

impl JournalId {
    /// The tag of its events' ids.
    pub fn tag(self) -> Tag {
        Tag::of_journal(self.0)
    }
}

/// Events to be appended together.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    /// Their tuples (see [`super::row`]), one behind the other.
    pub rows: &'a [u8],
    /// How many they are.
    pub events: u32,
    /// Keys of some of them, by their place.
    pub keys: &'a [(u32, Key)],
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A newer version wrote it.
    #[error("{} was written by a newer version (format {version}); run that version, or move the file away", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
    /// Its rows have other columns than this version's.
    #[error("{} holds rows of other columns ({columns}); drain it with the version that wrote it", .path.display())]
    OtherColumns {
        /// The file.
        path: PathBuf,
        /// Its columns.
        columns: String,
    },
    /// The journal holds no such sequence.
    #[error("the journal does not hold {journal} {sequence}")]
    NotHeld {
        /// The journal.
        journal: Uuid,
        /// The sequence.
        sequence: u64,
    },
    /// The system says no.
    #[error("{}", .path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Why nothing was appended, or synced.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The file system is full. Nothing was kept; a later try may succeed.
    #[error("no space: {0}")]
    NoSpace(io::Error),
    /// It holds as much as it may.
    #[error("the journal holds as much as it may")]
    Full,
    /// Too little is left of the file system.
    #[error("too little space is left")]
    MinFree,
    /// More than a segment holds.
    #[error("larger than a segment")]
    TooLarge,
    /// Writing or syncing failed; nothing is taken until a restart.
    #[error("the journal cannot be written any more: {0}")]
    Poisoned(String),
}

/// Why nothing would be appended now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// As [`AppendError::Full`].
    Full,
    /// As [`AppendError::MinFree`].
    MinFree,
    /// As [`AppendError::NoSpace`], a moment ago.
    NoSpace,
    /// As [`AppendError::Poisoned`].
    Poisoned,
}

/// What was read.
#[derive(Debug)]
pub enum Piece {
    /// Rows.
    Rows(Chunk),
    /// Sequences that were promised and cannot be read any more.
    Damaged {
        /// The first of them.
        from: u64,
        /// The one after the last.
        until: u64,
        /// Where the bytes are kept that stand in their place.
        file: PathBuf,
    },
}

/// Rows that follow each other.
#[derive(Debug)]
pub struct Chunk {
    /// The sequence of the first.
    pub from: u64,
    /// The one after the last.
    pub until: u64,
    /// Holds the rows, and the headers between them.
    pub buffer: Vec<u8>,
    /// Where the rows are in the buffer, in order.
    pub stretches: Vec<Range<usize>>,
    /// Keys, by sequence.
    pub keys: Vec<(u64, Key)>,
}

/// The real file system.
pub fn system_files() -> Arc<dyn Files> {
    Arc::new(SystemFiles)
}
