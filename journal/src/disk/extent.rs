//! Extents: the synced range of each journal, in a small file beside its segments.
//!
//! Segments do not show that another segment is missing, or that a file was truncated; the extent does. It is overwritten
//! after each sync, so it is never ahead of the disk. After a loss of power it may lag behind, and is then a lower bound.
//!
//! ```text
//! 0  magic "tgExtent"     16  journal: uuid              48  number of the last segment: u64
//! 8  crc32 of 12..72      32  number of the first: u64   56  end: u64, one past the last synced sequence
//! 12 version: u32         40  first sequence: u64        64  synced offset of the last segment: u64
//! ```

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::JournalId;
use super::files::{Access, File, Files, read_up_to, write_all};
use super::segments::{JournalReader, JournalSegments};

/// Less than a sector, so that writes are atomic.
const BYTES: usize = 72;
const MAGIC: [u8; 8] = *b"tgExtent";
const VERSION: u32 = 1;
const SUFFIX: &str = ".extent";
/// Reads beside the service may meet a write in progress.
const TRIES: u32 = 3;

/// Synced range of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) first_number: u64,
    pub(super) first: u64,
    pub(super) last_number: u64,
    /// One past the last synced sequence.
    pub(super) end: u64,
    /// Offset of the last segment up to which everything is synced.
    pub(super) used: u64,
}

/// File name of a journal's extent.
pub(super) fn extent_name(journal: JournalId) -> String {
    format!("{journal}{SUFFIX}")
}

/// Parses the file name of an extent.
pub(super) fn parse_extent_name(name: &str) -> Option<JournalId> {
    let journal = JournalId(name.strip_suffix(SUFFIX)?.parse().ok()?);
    (extent_name(journal) == name).then_some(journal)
}

impl Extent {
    /// The extent of a journal; `None`: it never held an event.
    pub(super) fn of(journal: &JournalSegments) -> Option<Self> {
        let (front, back) = (journal.segments.front()?, journal.segments.back()?);
        (back.end > 0).then_some(Self {
            first_number: front.id.number,
            first: front.first,
            last_number: back.id.number,
            end: back.end,
            used: back.used,
        })
    }

    fn encode(&self, journal: JournalId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(journal.0.as_bytes());
        for number in [self.first_number, self.first, self.last_number, self.end, self.used] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(journal: JournalId, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..BYTES)?;
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let crc = crc32fast::hash(bytes.get(12..)?).to_le_bytes();
        let is_ours = bytes.starts_with(&MAGIC)
            && bytes.get(8..12)? == crc
            && bytes.get(12..16)? == VERSION.to_le_bytes()
            && Uuid::from_slice(bytes.get(16..32)?).ok()? == journal.0;
        if !is_ours {
            return None;
        }
        let extent = Self {
            first_number: number(32)?,
            first: number(40)?,
            last_number: number(48)?,
            end: number(56)?,
            used: number(64)?,
        };
        let is_sound = extent.first <= extent.end && extent.first_number <= extent.last_number;
        is_sound.then_some(extent)
    }
}

/// Reads an extent; `None`: missing or damaged.
pub(super) fn read(files: &dyn Files, path: &std::path::Path, journal: JournalId) -> Option<Extent> {
    let mut bytes = [0; BYTES];
    (0..TRIES).find_map(|_| {
        let file = files.open(path, Access::Read).ok()?;
        let read = read_up_to(&*file, &mut bytes, 0).ok()?;
        Extent::decode(journal, bytes.get(..read)?)
    })
}

/// The extents that this process writes.
#[derive(Debug, Default)]
pub(super) struct Extents {
    /// `None`: the file could not be created; the next segment tries again.
    open: HashMap<JournalId, Option<Arc<dyn File>>>,
    /// Whether any was written since the last sync.
    dirty: AtomicBool,
}

impl JournalReader {
    fn extent_path(&self, journal: JournalId) -> PathBuf {
        self.path(extent_name(journal))
    }

    /// Writes the extent of a journal. A failure loses no event: an extent only helps to report damage.
    pub(super) fn record_extent(&self, journal: JournalId) -> io::Result<()> {
        let mut extents = self.extents.lock();
        self.write_extent(&mut extents, journal)?;
        extents.dirty.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Writes and syncs the extent, before a segment is released.
    pub(super) fn sync_extent(&self, journal: JournalId) -> io::Result<()> {
        // Synced without the lock, which the writer takes after each sync of its own.
        let written = self.write_extent(&mut self.extents.lock(), journal)?;
        match written {
            Some(file) => file.fdatasync(),
            None => Ok(()),
        }
    }

    fn write_extent(&self, extents: &mut Extents, journal: JournalId) -> io::Result<Option<Arc<dyn File>>> {
        // Read under the lock of the extents, so that no older state overwrites a newer one.
        let (extent, current) = {
            let state = self.state.lock();
            let Some(held) = state.journals.iter().find(|held| held.id == journal) else { return Ok(None) };
            (Extent::of(held), held.current)
        };
        let Some(extent) = extent else { return Ok(None) };
        let file = match extents.open.get(&journal) {
            Some(file) => file.clone(),
            None => {
                let path = self.extent_path(journal);
                let opened = match self.files.open(&path, Access::Write) {
                    Err(error) if error.kind() == ErrorKind::NotFound && current => self.files.create(&path),
                    opened => opened,
                };
                extents.open.insert(journal, opened.as_ref().ok().cloned());
                match opened {
                    // A journal of a version without extents.
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    opened => Some(opened?),
                }
            }
        };
        let Some(file) = file else { return Ok(None) };
        write_all(&*file, &extent.encode(journal), 0)?;
        Ok(Some(file))
    }

    /// Lets the next write create a file that could not be created before.
    pub(super) fn retry_extent(&self, journal: JournalId) {
        let open = &mut self.extents.lock().open;
        if open.get(&journal).is_some_and(Option::is_none) {
            open.remove(&journal);
        }
    }

    /// Removes the extent of a journal, durably, before its last segment is released: an extent without segments would look
    /// like a loss.
    pub(super) fn remove_extent(&self, journal: JournalId) -> io::Result<()> {
        self.extents.lock().open.remove(&journal);
        match self.files.remove(&self.extent_path(journal)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.files.sync_dir(&self.settings.dir)),
        }
    }

    /// Syncs the extents that were written.
    pub(super) fn sync_extents(&self) {
        let files: Vec<_> = {
            let extents = self.extents.lock();
            if !extents.dirty.swap(false, Ordering::Relaxed) {
                return;
            }
            extents.open.values().flatten().cloned().collect()
        };
        for file in files {
            let _lags_behind = file.fdatasync();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_any_other_byte_is_noticed() {
        let journal = JournalId(Uuid::from_u128(7));
        let extent = Extent { first_number: 1, first: 20, last_number: 3, end: 99, used: 8192 };
        let bytes = extent.encode(journal);
        assert_eq!(Extent::decode(journal, &bytes), Some(extent));
        assert_eq!(Extent::decode(JournalId(Uuid::nil()), &bytes), None);
        for at in 0..BYTES {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_eq!(Extent::decode(journal, &other), None, "byte {at}");
            assert_eq!(Extent::decode(journal, &bytes[..at]), None);
        }
    }
}
