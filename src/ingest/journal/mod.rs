//! The disk journal: rows that a level was given for, synced before the level.
//!
//! Synchronous, and ignorant of who reads or writes: rows go in as groups, each with one write and one sync, get
//! sequences from 0 on, and come out again in that order until they are trimmed.
//!
//! # Constraints
//!
//! * A synced row is read back byte for byte, or reported as damaged. A row that was never appended is never read.
//! * A written row that was not synced may be there after a loss of power or not; but never without all before it.
//! * A journal is appended to by one process, once. Each start opens a journal with an id of its own, so that a restored
//!   or cloned folder never gives out a sequence twice. A lock keeps two processes apart.
//! * Whatever bytes are found: no panic, no endless loop, no start that fails for ever. Only a newer format is refused.
//! * Disk: at most `max_bytes` of segments, and one spare. Memory: one group, and what readers ask for.
//!
//! # On disk
//!
//! A folder of segments, `<journal>-<number>.seg`, all of one size, filled with zeros before use or recycled: a sync of
//! bytes that were written before costs half of one that lengthens a file. While groups are large, new segments are
//! reserved instead of filled, as that would write everything twice. Beside them `spare`, the next one; `lock`;
//! `<journal>.extent`, how far each journal reaches; `quarantine/`, copies of damaged bytes, and segments that the disk
//! could not read; and `losses/`, acknowledged events that are lost. Numbers are little-endian.
//!
//! ```text
//! segment   header page │ block │ block │ … │ zeros, or remains of what the file held before it was recycled
//!
//! header      0  magic "TIDEGATE"          40  nonce: u64                  72  length of the column list: u64
//!  4096       8  crc32 of 12..4096: u32    48  first sequence: u64         80  column list
//!            12  version: u32              56  end of the segment before
//!            16  journal: uuid             64  journal begun at, µs: i64
//!            32  number: u64
//!
//! block       0  magic "tgBk"              20  events: u32                 40  synced before: u64
//!  64 +       4  crc32 of 8..64: u32       24  keys: u32                   48  nonce: u64
//!  payload    8  crc32 of the payload      28  crc at 4 of the block       56  zeros
//!            12  length: u32                   before this one, or 0       64  rows, then keys (index: u32, key: 16)
//!            16  bytes of rows: u32        32  first sequence: u64         … zeros up to a multiple of 4096
//! ```
//!
//! # Rules
//!
//! * A block begins on a page of its own, so a write never touches a sector or page that holds synced bytes.
//! * A group lies wholly in one segment. Its records share blocks up to 256 KiB: what a bad sector costs.
//! * A block's crc also covers journal, number and offset, so the remains in a recycled file are not valid; the nonce is
//!   secret, so no event's body is; and each block names the one before, so nothing is of a group that was cut back.
//! * Before a segment gets a successor, all of it is synced. The successor's header says where it ends.
//! * Every block says up to where all was synced before it, and the extent says it of the last one. **Bad bytes before
//!   that are damage**: they are kept in quarantine, and their events, up to the next valid block, recorded as a loss.
//!   **Bad bytes after it are a torn tail**: cut, so that they never come back. [`JournalWriter::seal`] says it when no other
//!   block follows.
//! * Bytes that the disk cannot read are read again, with pauses, before they are damage.
//! * A name is synced before its file is used, and a recycled file's new name before its first new byte.
//! * Segments are given up from a journal's beginning on only, and the extent says so before.
//! * A shortage (no space, no descriptors, no memory) of a write or a sync: the group is cut back and refused. A failed
//!   sync is never repeated; what it was for is written over. Any other error of a write or a sync: poisoned.
//! * The folder and the open segment are those that were opened, which is checked once a second; else nothing is taken.

mod append;
mod error;
mod extent;
mod files;
mod format;
mod gate;
pub mod losses;
mod maintenance;
mod quarantine;
mod read;
mod recover;
mod salvage;
mod scan;
mod space;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

pub use append::JournalWriter;
pub use error::{AppendError, JournalError, Refusal};
pub use files::{Access, File, FileId, Files, Lock, RealFiles};
pub use format::{FORMAT_VERSION, PAGE};
pub use losses::{Cause, Loss, LossState, Lost};
pub use read::{Chunk, Piece};
pub use recover::{Damage, DamagedBytes, Recovered, TornTail};
pub use salvage::Salvage;
pub use store::{Held, JournalReader, Quarantined, SegmentInfo, SegmentState, Usage};

use super::keys::Key;
use super::{id, row};
use format::{FIRST_BLOCK, Place, SegmentHeader};
use gate::Gate;
use recover::Recovery;
use scan::{Found, Walk};
use store::{Journal, LOCK, NEW_SPARE, SPARE, Signal, State};

/// What the journal may take.
#[derive(Debug, Clone)]
pub struct JournalSettings {
    /// The folder.
    pub dir: PathBuf,
    /// The size of a segment; a multiple of [`PAGE`]. A group must fit into one.
    pub segment_bytes: u64,
    /// The most bytes of segments, those kept for a rewind included, which yield first.
    pub max_bytes: u64,
    /// The most bytes of covered segments that are kept for a rewind.
    pub keep_bytes: u64,
    /// Free bytes of the file system below which nothing is accepted.
    pub min_free: u64,
}

/// A journal: what one process appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JournalId(pub Uuid);

impl JournalId {
    /// What the ids of its events carry.
    pub fn tag(self) -> id::Tag {
        id::Tag::of_journal(self.0)
    }
}

impl std::fmt::Display for JournalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Events that belong together: one, or a chunk of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    /// Encoded tuples, one behind the other (see [`super::row`]).
    pub rows: &'a [u8],
    /// How many they are.
    pub events: u32,
    /// Keys of some of them, each with the index of its event in these records.
    pub keys: &'a [(u32, Key)],
}

/// Opens the folder, recovers what earlier processes left, and begins a journal of its own.
///
/// A thread is to call [`JournalReader::maintain`] as long as the writer is used. It also opens where there is no room for a first segment: what is pending can be read and trimmed, which makes some.
///
/// # Errors
///
/// Another process has the folder, a later version wrote it, or the file system fails.
pub fn open(
    files: Arc<dyn Files>,
    settings: JournalSettings,
) -> Result<(JournalWriter, Arc<JournalReader>, Recovered), JournalError> {
    let bytes = settings.segment_bytes;
    if bytes < 4 * PAGE || !bytes.is_multiple_of(PAGE) || bytes > u64::from(u32::MAX) {
        let rule = format!("a segment of {bytes} bytes: a multiple of {PAGE} from {} to 4 GiB", 4 * PAGE);
        return Err(JournalError::Settings(rule));
    }
    let dir = settings.dir.clone();
    files.create_dir(&dir).map_err(JournalError::io("create", &dir))?;
    let lock = files.lock(&dir.join(LOCK)).map_err(JournalError::io("lock", &dir))?;
    let lock = lock.ok_or_else(|| JournalError::Locked(dir.clone()))?;
    let mut recovery = Recovery { files: &*files, dir: &dir, own: true, found: Recovered::default() };
    let mut journals = recovery.run()?;
    let recovered = recovery.found;
    let spare = adopt_spare(&*files, &settings)?;
    files.sync_dir(&dir).map_err(JournalError::io("sync", &dir))?;

    let journal = JournalId(Uuid::new_v4());
    let created_at_us = id::unix_now_us();
    journals.push(Journal {
        id: journal,
        created_at_us,
        current: true,
        columns: Arc::from(row::COLUMNS),
        segments: Default::default(),
        cursors: Default::default(),
    });
    let quarantined = quarantine::count(&*files, &dir);
    // A record that cannot be read must not keep the service from starting.
    let known = losses::list(&*files, &dir).unwrap_or_else(|error| {
        tracing::error!(error = crate::db::chain(&error), "a record of lost events cannot be read");
        Vec::new()
    });
    let home = files.identity(&dir).map_err(JournalError::io("read", &dir))?;
    let store = Arc::new(JournalReader {
        files,
        settings,
        read_only: false,
        gate: Gate::new(),
        state: Mutex::new(State { journals, quarantined, ..State::default() }),
        spare: Mutex::new(spare),
        fills_spares: AtomicBool::new(true),
        signal: Signal::default(),
        lock: Some(lock),
        extents: Mutex::default(),
        losses: Mutex::default(),
        home: Some(home),
        reported: Mutex::default(),
    });
    store.keep_unread(&known);
    store.look_at_losses();
    for damage in &recovered.unknown {
        store.record_loss(Loss::of(damage, None));
    }
    // A figure that cannot be had is no reason not to start.
    let _no_figure_yet = store.look_at_free_space();
    let mut appender = JournalWriter::new(Arc::clone(&store), (journal, created_at_us));
    match appender.roll() {
        Err(AppendError::Poisoned(reason)) => {
            let source = std::io::Error::other(reason);
            Err(JournalError::Io { doing: "begin a segment in", path: dir, source })
        }
        // No room: the first append tries again.
        Ok(()) | Err(_) => Ok((appender, store, recovered)),
    }
}

/// Opens the folder for reading alone, without its lock, beside a running service or without one. Changes nothing; what
/// the service appends later is not seen.
///
/// # Errors
///
/// A later version wrote it, or it cannot be read.
pub fn inspect(files: Arc<dyn Files>, dir: &Path) -> Result<(Arc<JournalReader>, Recovered), JournalError> {
    let mut recovery = Recovery { files: &*files, dir, own: false, found: Recovered::default() };
    let journals = recovery.run()?;
    let recovered = recovery.found;
    let quarantined = quarantine::count(&*files, dir);
    let settings =
        JournalSettings { dir: dir.to_owned(), segment_bytes: 0, max_bytes: 0, keep_bytes: 0, min_free: 0 };
    let store = JournalReader {
        files,
        settings,
        read_only: true,
        gate: Gate::new(),
        state: Mutex::new(State { journals, quarantined, ..State::default() }),
        spare: Mutex::new(None),
        fills_spares: AtomicBool::new(true),
        signal: Signal::default(),
        lock: None,
        extents: Mutex::default(),
        losses: Mutex::default(),
        home: None,
        reported: Mutex::default(),
    };
    store.look_at_losses();
    Ok((Arc::new(store), recovered))
}

/// A spare segment that an earlier process left. Its bytes do not matter, its size does.
fn adopt_spare(files: &dyn Files, settings: &JournalSettings) -> Result<Option<Arc<dyn File>>, JournalError> {
    let names = files.list(&settings.dir).map_err(JournalError::io("list", &settings.dir))?;
    let path = settings.dir.join(NEW_SPARE);
    if names.iter().any(|name| name == NEW_SPARE) {
        files.remove(&path).map_err(JournalError::io("remove", &path))?;
    }
    if !names.iter().any(|name| name == SPARE) {
        return Ok(None);
    }
    let path = settings.dir.join(SPARE);
    let file = files.open(&path, Access::Write).map_err(JournalError::io("open", &path))?;
    if file.length().map_err(JournalError::io("open", &path))? == settings.segment_bytes {
        return Ok(Some(file));
    }
    files.remove(&path).map_err(JournalError::io("remove", &path))?;
    Ok(None)
}

/// What [`scan_bytes`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scan {
    /// Events in valid blocks.
    pub events: u64,
    /// Events that are missing.
    pub damaged: u64,
    /// Steps taken.
    pub steps: u64,
}

/// Walks bytes as if they were a segment: what a fuzzer calls.
pub fn scan_bytes(bytes: &[u8]) -> Scan {
    let mut scan = Scan::default();
    let Ok(header) = SegmentHeader::decode(bytes) else { return scan };
    let place = Place { journal: header.journal, number: header.number };
    let file: Arc<dyn File> = Arc::new(files::Bytes(bytes.to_vec()));
    let Ok(mut walk) = Walk::whole(&file, place, Some(header.nonce), header.first, 0) else { return scan };
    loop {
        scan.steps += 1;
        match walk.next() {
            Ok(Found::Block { offset, header }) => {
                let read = walk.bytes(offset, &header).unwrap_or_default();
                let rows = read.get(format::BLOCK_HEADER..).unwrap_or_default();
                let tuples = row::tuples(rows.get(..header.rows as usize).unwrap_or_default());
                scan.events += tuples.take(header.events as usize).count() as u64;
                debug_assert!(offset >= FIRST_BLOCK && header.keys(read).count() == header.keys as usize);
            }
            Ok(Found::Damage { from, until, .. }) => scan.damaged += until - from,
            Ok(Found::End { .. }) | Err(_) => return scan,
        }
    }
}

/// Walks bytes as [`scan_bytes`] does, after making their checksums right: a fuzzer hardly ever guesses one.
pub fn scan_repaired(mut bytes: Vec<u8>) -> Scan {
    format::repair(&mut bytes);
    scan_bytes(&bytes)
}
