//! The state file: what was sent of each file.
//!
//! NDJSON: a header, then a record for each checkpoint, appended. The last record of a file counts. It is synced before the next batch of
//! that file, so files that are sent in turns share a sync. A record that a kill or a
//! full disk broke off is removed by the next start, and by the next record. A file that is mostly old records is written anew, synced and
//! renamed. A lock keeps a second process from using it.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::lines::BATCH_LINES;

/// The most files that are remembered. Beyond it those are forgotten that are gone from their paths, and then those unused for the
/// longest time.
const MAX_ENTRIES: usize = 100_000;
/// Old records for each living one before the file is written anew, and the fewest.
const OLD_RECORDS: usize = 4;
const FEWEST_RECORDS: usize = 1000;
const HEADER: &str = "{\"tidegate_ingest\":1}\n";

/// A state file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    #[error("{0} is no state of tidegate ingest")]
    Malformed(PathBuf),
    #[error("another process uses {0}")]
    InUse(PathBuf),
}

/// An inode: its number, and its birth in nanoseconds of Unix time, as numbers are used again. Where the birth is unknown the device
/// stands for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct FileId {
    pub(super) inode: u64,
    pub(super) birth: String,
}

impl FileId {
    /// Whether the file was made at a time, in seconds of Unix time, or later; no if that is unknown.
    pub(super) fn is_born_since(&self, seconds: u64) -> bool {
        self.birth.parse::<u128>().is_ok_and(|nanoseconds| nanoseconds / 1_000_000_000 >= u128::from(seconds))
    }
}

/// How far an input was sent, and the base of its next lines' keys. The key of a line is made of an offset and of the line's number from
/// there on. The offset is the one at which its batch begins, unless an earlier part of a batch was sent alone: then lines keep the
/// keys that they would have had in the whole one, which may have been stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Bytes that were sent, decompressed.
    pub(super) offset: u64,
    /// The offset from which lines are counted.
    pub(super) base: u64,
    /// Lines between the base and the offset.
    pub(super) base_lines: u64,
}

impl Progress {
    /// Counts a batch that was sent. `is_cut`: it was a part of a batch that may have been stored.
    pub(super) fn advance(&mut self, bytes: u64, lines: u64, is_cut: bool) {
        self.offset += bytes;
        self.base_lines += lines;
        if !(is_cut || self.base_lines > lines) || self.base_lines >= BATCH_LINES as u64 {
            (self.base, self.base_lines) = (self.offset, 0);
        }
    }
}

/// A file, and how far it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    pub(super) id: FileId,
    #[serde(flatten)]
    pub(super) progress: Progress,
    /// Identifies the file in keys; empty: nothing was sent.
    pub(super) key: String,
    /// The hash of the file's first bytes, and their number.
    pub(super) head: String,
    pub(super) head_bytes: u64,
    /// The hash of the bytes before the offset, and their number; 0: not known.
    pub(super) tail: String,
    pub(super) tail_bytes: u64,
    /// How often it was truncated.
    pub(super) generation: u64,
    /// Whether its lines are text; `None`: not known yet.
    pub(super) is_text: Option<bool>,
    /// The last known path, absolute.
    pub(super) path: PathBuf,
    /// The last time that it was sent from, in seconds of Unix time.
    pub(super) seen: u64,
}

/// A checkpoint.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The size of the file of rejects.
    rejects_bytes: u64,
    #[serde(flatten)]
    entry: Entry,
}

/// The state.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    entries: HashMap<FileId, Entry>,
    rejects_bytes: u64,
    /// `None`: to be made with the first record.
    file: Option<File>,
    /// Bytes of whole records.
    bytes: u64,
    records: usize,
    /// Files with a record that is not synced.
    unsynced: HashSet<FileId>,
    _lock: File,
}

impl State {
    /// Reads a state file; one that does not exist is empty.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let io = |error| StateError::Io(path.to_owned(), error);
        let lock = beside(path, "lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let mut state = Self {
            path: path.to_owned(),
            entries: HashMap::new(),
            rejects_bytes: 0,
            file: None,
            bytes: 0,
            records: 0,
            unsynced: HashSet::new(),
            _lock: lock,
        };
        match std::fs::read(path) {
            Ok(bytes) => state.load(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(state),
            Err(error) => return Err(io(error)),
        }
        let file = OpenOptions::new().append(true).open(path).map_err(io)?;
        file.set_len(state.bytes).map_err(io)?;
        state.file = Some(file);
        Ok(state)
    }

    /// Reads records. What follows the last end of a line is a broken one.
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let malformed = || StateError::Malformed(self.path.clone());
        let whole = memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1);
        let records = bytes.get(..whole).unwrap_or_default().strip_prefix(HEADER.as_bytes());
        for line in records.ok_or_else(malformed)?.split_inclusive(|byte| *byte == b'\n') {
            let record: Record = serde_json::from_slice(line).map_err(|_| malformed())?;
            self.rejects_bytes = record.rejects_bytes;
            self.entries.insert(record.entry.id.clone(), record.entry);
            self.records += 1;
        }
        self.bytes = whole as u64;
        Ok(())
    }

    /// The size of the file of rejects at the last checkpoint; `None`: there was none.
    pub(super) fn rejects_bytes(&self) -> Option<u64> {
        (self.records > 0).then_some(self.rejects_bytes)
    }

    /// The entry of an inode.
    pub(super) fn entry(&self, id: &FileId) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// All entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Records how far a file was sent. After an error it may be called again.
    pub(super) fn record(&mut self, mut entry: Entry, rejects_bytes: u64) -> Result<(), StateError> {
        entry.seen = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.entries.insert(entry.id.clone(), entry.clone());
        self.rejects_bytes = rejects_bytes;
        let is_old = self.records >= FEWEST_RECORDS.max(self.entries.len() * OLD_RECORDS);
        let recorded = match &self.file {
            Some(_) if !is_old => self.append(&Record { rejects_bytes, entry }),
            _ => self.write_anew(),
        };
        recorded.map_err(|error| StateError::Io(self.path.clone(), error))
    }

    fn append(&mut self, record: &Record) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(io::Error::other("no file")) };
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if file.metadata()?.len() != self.bytes {
            // A part of a record, from before an error.
            file.set_len(self.bytes)?;
        }
        file.write_all(&line)?;
        self.bytes += line.len() as u64;
        self.records += 1;
        self.unsynced.insert(record.entry.id.clone());
        Ok(())
    }

    /// Whether the last record of a file is not durable yet.
    pub(super) fn is_unsynced(&self, id: &FileId) -> bool {
        self.unsynced.contains(id)
    }

    /// Makes all records durable.
    pub(super) fn sync(&mut self) -> Result<(), StateError> {
        if let Some(file) = self.file.as_ref().filter(|_| !self.unsynced.is_empty()) {
            file.sync_data().map_err(|error| StateError::Io(self.path.clone(), error))?;
            self.unsynced.clear();
        }
        Ok(())
    }

    /// Replaces the file by one with a record for each entry.
    fn write_anew(&mut self) -> io::Result<()> {
        self.forget();
        let mut bytes = HEADER.as_bytes().to_vec();
        for entry in self.entries.values() {
            let record = Record { rejects_bytes: self.rejects_bytes, entry: entry.clone() };
            serde_json::to_writer(&mut bytes, &record)?;
            bytes.push(b'\n');
        }
        let next = beside(&self.path, "next");
        let mut file = File::create(&next)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&next, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        (self.bytes, self.records) = (bytes.len() as u64, self.entries.len());
        self.unsynced.clear();
        Ok(())
    }

    /// Removes entries beyond the limit.
    fn forget(&mut self) {
        let beyond = self.entries.len().saturating_sub(MAX_ENTRIES);
        if beyond == 0 {
            return;
        }
        let mut order: Vec<_> =
            self.entries.values().map(|entry| (entry.path.exists(), entry.seen)).collect();
        order.sort_unstable();
        let Some(last) = order.get(beyond - 1).copied() else { return };
        self.entries.retain(|_, entry| (entry.path.exists(), entry.seen) > last);
    }
}

/// A path with an extension more.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(inode: u64, offset: u64) -> Entry {
        Entry {
            id: FileId { inode, birth: "1".into() },
            progress: Progress { offset, base: offset, base_lines: 0 },
            key: "k".into(),
            head: String::new(),
            head_bytes: 0,
            tail: String::new(),
            tail_bytes: 0,
            generation: 0,
            is_text: None,
            path: "/none".into(),
            seen: 0,
        }
    }

    #[test]
    fn the_last_whole_record_of_a_file_counts_and_old_ones_are_removed() {
        let folder = std::env::temp_dir().join(format!("tidegate-ingest-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("state");
        let mut state = State::open(&path).unwrap();
        assert_eq!(state.rejects_bytes(), None);
        for offset in 1..=FEWEST_RECORDS as u64 + 10 {
            state.record(entry(offset % 3, offset), offset).unwrap();
        }
        assert!(state.records < 20, "written anew");
        assert!(matches!(State::open(&path), Err(StateError::InUse(_))));
        drop(state);
        let mut broken = std::fs::read(&path).unwrap();
        broken.extend_from_slice(b"{\"rejects_by");
        std::fs::write(&path, &broken).unwrap();
        let mut state = State::open(&path).unwrap();
        let last = FEWEST_RECORDS as u64 + 10;
        assert_eq!(state.rejects_bytes(), Some(last));
        assert_eq!(state.entry(&entry(last % 3, 0).id).unwrap().progress.offset, last);
        state.record(entry(7, 1), 0).unwrap();
        assert!(state.is_unsynced(&entry(7, 1).id));
        state.sync().unwrap();
        assert!(!state.is_unsynced(&entry(7, 1).id));
        drop(state);
        assert_eq!(State::open(&path).unwrap().entries().count(), 4);
        for other in ["", "{}\n", "{\"tidegate_ingest\":1}\nx\n"] {
            std::fs::write(&path, other).unwrap();
            assert!(matches!(State::open(&path), Err(StateError::Malformed(_))), "{other}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn lines_keep_their_keys_while_parts_of_a_batch_are_sent() {
        let mut progress = Progress::default();
        progress.advance(10, 2, false);
        assert_eq!(progress, Progress { offset: 10, base: 10, base_lines: 0 });
        progress.advance(10, 2, true);
        progress.advance(10, 3, false);
        assert_eq!(progress, Progress { offset: 30, base: 10, base_lines: 5 });
        progress.advance(10, BATCH_LINES as u64 - 5, false);
        assert_eq!(progress, Progress { offset: 40, base: 40, base_lines: 0 });
    }
}
