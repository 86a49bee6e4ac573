//! How far a journal reaches, noted outside its segments.
//!
//! A segment's header has its first sequence, and its blocks record what was synced before them. Nothing in a segment shows
//! that another one was there, or what a file that was cut short held. So each journal has a small file beside its segments,
//! which is written over after each sync. The note is never ahead of the disk: what it names was synced before. After a
//! loss of power it may lag behind, and is then a lower bound.
//!
//! ```text
//! 0  magic "tgExtent"     16  journal: uuid              48  number of the last segment: u64
//! 8  crc32 of 12..72      32  number of the first: u64   56  end: u64, one past the last synced sequence
//! 12 version: u32         40  first sequence: u64        64  up to where the last segment is synced: u64
//! ```

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::JournalId;
use super::files::{Access, File, Files, read_up_to, write_all};
use super::store::{Journal, JournalReader, lock};

/// A note fits into one sector, so that it is written whole or not at all.
const BYTES: usize = 72;
const MAGIC: [u8; 8] = *b"tgExtent";
const VERSION: u32 = 1;
const SUFFIX: &str = ".extent";
/// Reads beside the service may meet a note that is being written.
const TRIES: u32 = 3;

/// What a journal held when the note was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) first_number: u64,
    pub(super) first: u64,
    pub(super) last_number: u64,
    /// One past the last synced sequence.
    pub(super) end: u64,
    /// Up to which offset of the last segment all is synced.
    pub(super) used: u64,
}

/// The name of a journal's note.
pub(super) fn extent_name(journal: JournalId) -> String {
    format!("{journal}{SUFFIX}")
}

/// The journal that a note's name names.
pub(super) fn parse_extent_name(name: &str) -> Option<JournalId> {
    let journal = JournalId(name.strip_suffix(SUFFIX)?.parse().ok()?);
    (extent_name(journal) == name).then_some(journal)
}

impl Extent {
    /// Of the journal as it is; `None`: it never held an event.
    pub(super) fn of(journal: &Journal) -> Option<Self> {
        let (front, back) = (journal.segments.front()?, journal.segments.back()?);
        (back.end > 0).then_some(Self {
            first_number: front.place.number,
            first: front.first,
            last_number: back.place.number,
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

/// Reads a note; `None`: there is no usable one, and only the segments are known.
pub(super) fn read(files: &dyn Files, path: &std::path::Path, journal: JournalId) -> Option<Extent> {
    let mut bytes = [0; BYTES];
    (0..TRIES).find_map(|_| {
        let file = files.open(path, Access::Read).ok()?;
        let read = read_up_to(&*file, &mut bytes, 0).ok()?;
        Extent::decode(journal, bytes.get(..read)?)
    })
}

/// The notes that this process writes.
#[derive(Debug, Default)]
pub(super) struct Extents {
    /// `None`: it could not be created, and is not tried again before the next segment.
    open: HashMap<JournalId, Option<Arc<dyn File>>>,
    /// Written since the last sync.
    dirty: AtomicBool,
}

impl JournalReader {
    fn extent_path(&self, journal: JournalId) -> PathBuf {
        self.path(extent_name(journal))
    }

    /// Writes down how far a journal reaches. A note that cannot be written costs no event: after damage less is known.
    pub(super) fn note_extent(&self, journal: JournalId) -> io::Result<()> {
        let mut extents = lock(&self.extents);
        self.write_extent(&mut extents, journal)?;
        extents.dirty.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The same, and on the disk when this returns: for a segment that is about to be given up, which must not be missed.
    pub(super) fn sync_extent(&self, journal: JournalId) -> io::Result<()> {
        // Synced without the lock, which the appender takes after each of its own syncs.
        let written = self.write_extent(&mut lock(&self.extents), journal)?;
        match written {
            Some(file) => file.fdatasync(),
            None => Ok(()),
        }
    }

    fn write_extent(&self, extents: &mut Extents, journal: JournalId) -> io::Result<Option<Arc<dyn File>>> {
        // Read under the notes' own lock, so that no older state is written over a newer one.
        let (extent, current) = {
            let state = lock(&self.state);
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
                    // A journal of a version that wrote no notes.
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    opened => Some(opened?),
                }
            }
        };
        let Some(file) = file else { return Ok(None) };
        write_all(&*file, &extent.encode(journal), 0)?;
        Ok(Some(file))
    }

    /// The next note is tried again, where one could not be created.
    pub(super) fn retry_extent(&self, journal: JournalId) {
        let open = &mut lock(&self.extents).open;
        if open.get(&journal).is_some_and(Option::is_none) {
            open.remove(&journal);
        }
    }

    /// Removes the note of a journal that is about to go, for good before the call returns: else it would look as if the
    /// journal's segments were missing.
    pub(super) fn remove_extent(&self, journal: JournalId) -> io::Result<()> {
        lock(&self.extents).open.remove(&journal);
        match self.files.remove(&self.extent_path(journal)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.files.sync_dir(&self.settings.dir)),
        }
    }

    /// Brings the notes to the disk.
    pub(super) fn sync_extents(&self) {
        let files: Vec<_> = {
            let extents = lock(&self.extents);
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
