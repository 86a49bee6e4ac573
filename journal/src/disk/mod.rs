//! A write-ahead log on disk: a folder of segments, which are sequences of checksummed blocks.
//!
//! Synchronous. A group of records costs one write and one sync.
//!
//! # Constraints
//!
//! * Those of the [contract](super): synced rows are read back byte for byte, refused rows never.
//! * A lock keeps two processes apart.
//! * Arbitrary bytes on disk cause no panic, no endless loop, and no start that always fails. Only a newer format is
//!   rejected.
//! * Disk space: at most `max_bytes` of segments, and one spare. Memory: one group, and the reads in progress.
//!
//! # Format
//!
//! Segments are named `<journal>-<number>.seg` and have one size. They are filled with zeros before use, or recycled:
//! a sync of bytes that were written before costs half of one that extends a file. While groups are large, the blocks of a
//! new segment are reserved instead, since filling would write everything twice. Beside the segments are `spare`, the next
//! segment; `lock`; `registered`, the journals that the database knows; `<journal>.extent`, the range of each journal;
//! `quarantine/`, copies of damaged bytes and unreadable segments; and `losses/`, records of lost events. Numbers are
//! little-endian.
//!
//! ```text
//! segment   header page │ block │ block │ … │ zeros, or remains of the recycled file
//!
//! header      0  magic "TIDEGATE"          40  nonce: u64                  72  length of the column list: u64
//!  4096       8  crc32 of 12..4096: u32    48  first sequence: u64         80  column list
//!            12  version: u32              56  end of the previous segment
//!            16  journal: uuid             64  journal created at, µs: i64
//!            32  number: u64
//!
//! block       0  magic "tgBk"              20  events: u32                 40  synced before: u64
//!  64 +       4  crc32 of 8..64: u32       24  keys: u32                   48  nonce: u64
//!  payload    8  crc32 of the payload      28  crc at 4 of the previous    56  zeros
//!            12  length: u32                   block, or 0                 64  rows, then keys (index: u32, key: 16)
//!            16  bytes of rows: u32        32  first sequence: u64         … zeros up to a multiple of 4096
//! ```
//!
//! # Rules
//!
//! * A block begins on a page of its own. No write touches a sector or page that holds synced bytes.
//! * A group lies in one segment. Its records share blocks of up to 256 KiB, the cost of a bad sector.
//! * A block's crc also covers journal, number and offset: remains in a recycled file are invalid. The nonce is secret:
//!   no event's body can imitate a block. The previous block's crc is repeated: remains of an erased group follow nothing.
//! * A segment is synced as a whole before its successor exists. The successor's header has its end.
//! * Every block has the offset up to which everything was synced before it; the extent has that of the last block. **Bad
//!   bytes before that offset are damage**: they are copied to quarantine, and their events, up to the next valid block,
//!   are recorded as a loss. **Bad bytes after it are a torn tail**: they are erased, and never reappear. A **sync marker**,
//!   a block without events ([`JournalWriter::mark`]), protects the last block.
//! * Unreadable bytes are read again, with pauses, before they count as damage.
//! * A file's name is synced before the file is used, and a recycled file's new name before its first new byte.
//! * Segments are released from the beginning of a journal only, after the extent excludes them.
//! * A write or sync that fails for want of space, descriptors or memory: the group is erased and refused. A failed sync is
//!   never repeated; its pages are overwritten first. Any other error of a write or a sync poisons the journal.
//! * The folder and the open segment are compared with those that were opened, once a second. A mismatch refuses events.

mod damage;
mod extent;
mod files;
mod format;
pub mod fuzz;
mod gate;
mod losses;
mod maintenance;
mod quarantine;
mod read;
mod recovery;
mod registered;
mod salvage;
mod scan;
mod segments;
mod space;
#[cfg(test)]
mod tests;
mod writer;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use uuid::Uuid;

pub use damage::{Cause, Damage, DamagedBytes};
use files::{Access, File, Files, RealFiles};
use format::FORMAT_VERSION;
pub use format::PAGE;
pub use losses::{Loss, LossRecords, LossState};
pub use recovery::{Recovered, TornTail};
pub use salvage::Salvage;
pub use segments::{JournalReader, SegmentInfo, SegmentState};
pub use writer::JournalWriter;

use super::{
    AppendError, HeldJournal, JournalError, JournalId, JournalRead, JournalRows, Lost, Quarantined, Records,
    Refusal, Usage,
};
use recovery::Recovery;
use registered::Registered;
use segments::{JournalSegments, LOCK, NEW_SPARE, SPARE, State};

/// Limits of a journal on disk.
#[derive(Debug, Clone)]
pub struct DiskSettings {
    /// The folder.
    pub dir: PathBuf,
    /// The columns that the rows fill, recorded in each segment.
    pub columns: &'static str,
    /// Size of a segment, a multiple of [`PAGE`]. A group must fit into one.
    pub segment_bytes: u64,
    /// Most bytes of segments, including those kept for a rewind, which are released first.
    pub max_bytes: u64,
    /// Most bytes of covered segments that are kept for a rewind.
    pub keep_bytes: u64,
    /// Free bytes of the file system below which nothing is accepted.
    pub min_free: u64,
}

/// The files of a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process has locked it.
    #[error("the journal {} is in use by another process: a journal has one writer", .0.display())]
    Locked(PathBuf),
    /// A later version of the program wrote it. It is left unchanged.
    #[error("{} has journal format {version}, and this version reads up to {FORMAT_VERSION}: run the newer version", file.display())]
    Newer {
        /// The segment.
        file: PathBuf,
        /// Its format.
        version: u32,
    },
    /// The settings are inconsistent.
    #[error("the journal's settings: {0}")]
    Settings(String),
    /// The operating system returned an error.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The failed operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl DiskError {
    /// Adds the operation and its file to an error.
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

/// An open journal.
#[derive(Debug)]
pub struct OpenedJournal {
    /// Appends to the current journal.
    pub writer: JournalWriter,
    /// Reads and trims all journals of the folder.
    pub reader: Arc<JournalReader>,
    /// What earlier processes left.
    pub recovered: Recovered,
}

/// Opens the folder, recovers the journals of earlier processes, and begins a new journal.
///
/// It also opens where there is no room for a first segment: pending events can then be read and trimmed, which makes room.
///
/// # Errors
///
/// Another process uses the folder, a later version wrote it, or the file system fails.
pub fn open(settings: DiskSettings) -> Result<OpenedJournal, DiskError> {
    open_on(Arc::new(RealFiles::default()), settings)
}

fn open_on(files: Arc<dyn Files>, settings: DiskSettings) -> Result<OpenedJournal, DiskError> {
    let bytes = settings.segment_bytes;
    if bytes < 4 * PAGE || !bytes.is_multiple_of(PAGE) || bytes > u64::from(u32::MAX) {
        let rule = format!("a segment of {bytes} bytes: a multiple of {PAGE} from {} to 4 GiB", 4 * PAGE);
        return Err(DiskError::Settings(rule));
    }
    let dir = settings.dir.clone();
    files.create_dir(&dir).map_err(DiskError::io("create", &dir))?;
    let lock = files.lock(&dir.join(LOCK)).map_err(DiskError::io("lock", &dir))?;
    let lock = lock.ok_or_else(|| DiskError::Locked(dir.clone()))?;
    let mut recovery = Recovery { files: &*files, dir: &dir, own: true, found: Recovered::default() };
    let mut journals = recovery.run()?;
    let recovered = recovery.found;
    let registered = Registered::read(&*files, &dir)?;
    let spare = adopt_spare(&*files, &settings)?;
    files.sync_dir(&dir).map_err(DiskError::io("sync", &dir))?;

    let journal = JournalId(Uuid::new_v4());
    let created_at_us = unix_now_us();
    journals.push(JournalSegments {
        id: journal,
        created_at_us,
        current: true,
        columns: Arc::from(settings.columns),
        segments: Default::default(),
        cursors: Default::default(),
    });
    let loss_records = LossRecords::new(Arc::clone(&files), &dir);
    let known = loss_records.list().unwrap_or_else(|error| {
        // A damaged record must not prevent the start.
        tracing::error!(error = &error as &dyn Error, "a record of lost events cannot be read");
        Vec::new()
    });
    let home = files.identity(&dir).map_err(DiskError::io("read", &dir))?;
    let state = State { journals, quarantined: quarantine::count(&*files, &dir), ..State::default() };
    let reader = JournalReader {
        registered: Mutex::new(registered),
        spare: Mutex::new(spare),
        lock: Some(lock),
        home: Some(home),
        ..JournalReader::new(files, settings, state, loss_records)
    };
    let reader = Arc::new(reader);
    reader.keep_unreadable(&known);
    reader.refresh_losses();
    for damage in &recovered.unknown {
        reader.record_loss(Loss::of(damage, None));
    }
    // An unknown figure does not prevent the start.
    let _unknown_until_later = reader.check_free_space();
    let mut writer = JournalWriter::new(Arc::clone(&reader), (journal, created_at_us));
    match writer.begin_segment() {
        Err(AppendError::Poisoned(reason)) => {
            let source = io::Error::other(reason);
            Err(DiskError::Io { doing: "begin a segment in", path: dir, source })
        }
        // Without room, the first append tries again.
        Ok(()) | Err(_) => Ok(OpenedJournal { writer, reader, recovered }),
    }
}

/// Opens the folder for reading, without its lock, beside a running service or without one. Changes nothing. Later appends
/// of the service are not visible.
///
/// # Errors
///
/// A later version wrote it, or it cannot be read.
pub fn inspect(dir: &Path) -> Result<(Arc<JournalReader>, Recovered), DiskError> {
    inspect_on(Arc::new(RealFiles::default()), dir)
}

fn inspect_on(files: Arc<dyn Files>, dir: &Path) -> Result<(Arc<JournalReader>, Recovered), DiskError> {
    let mut recovery = Recovery { files: &*files, dir, own: false, found: Recovered::default() };
    let journals = recovery.run()?;
    let recovered = recovery.found;
    let state = State { journals, quarantined: quarantine::count(&*files, dir), ..State::default() };
    let (dir, columns) = (dir.to_owned(), "");
    let loss_records = LossRecords::new(Arc::clone(&files), &dir);
    let settings = DiskSettings { dir, columns, segment_bytes: 0, max_bytes: 0, keep_bytes: 0, min_free: 0 };
    let reader = JournalReader::new(files, settings, state, loss_records);
    reader.refresh_losses();
    Ok((Arc::new(reader), recovered))
}

/// Free bytes of the folder's file system, for this user: what [`DiskSettings::min_free`] is compared with.
///
/// # Errors
///
/// Any error of the operating system.
pub fn free_space(dir: &Path) -> io::Result<u64> {
    RealFiles::default().free_space(dir)
}

/// The time, in microseconds of Unix time.
fn unix_now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as i64
}

/// The spare segment of an earlier process. Its content is irrelevant, its size is not.
fn adopt_spare(files: &dyn Files, settings: &DiskSettings) -> Result<Option<Arc<dyn File>>, DiskError> {
    let names = files.list(&settings.dir).map_err(DiskError::io("list", &settings.dir))?;
    let path = settings.dir.join(NEW_SPARE);
    if names.iter().any(|name| name == NEW_SPARE) {
        files.remove(&path).map_err(DiskError::io("remove", &path))?;
    }
    if !names.iter().any(|name| name == SPARE) {
        return Ok(None);
    }
    let path = settings.dir.join(SPARE);
    let file = files.open(&path, Access::Write).map_err(DiskError::io("open", &path))?;
    if file.length().map_err(DiskError::io("open", &path))? == settings.segment_bytes {
        return Ok(Some(file));
    }
    files.remove(&path).map_err(DiskError::io("remove", &path))?;
    Ok(None)
}
