//! The journal's end: appends, syncs, and begins new segments.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::files::File;
use super::format::{BlockBuilder, FIRST_BLOCK, Salt, SegmentHeader};
use super::segment::{self, Segment};
use super::store::Store;
use super::{AppendError, JournalError, JournalId, Records};

/// Records are gathered in blocks of about this many bytes; damage costs at most one.
const BLOCK_BYTES: usize = 256 * 1024;

/// Writes one journal. Owned by one thread.
#[derive(Debug)]
pub struct Appender {
    store: Arc<Store>,
    salt: Salt,
    file: Arc<dyn File>,
    /// Where the next block goes.
    offset: u64,
    /// Up to where the segment is synced.
    synced: u64,
    next: u64,
    write: u64,
    unsynced: bool,
    buffer: Vec<u8>,
    poisoned: Option<String>,
}

impl Appender {
    /// Begins a new journal.
    pub(super) fn begin(store: Arc<Store>, journal: JournalId) -> Result<Self, JournalError> {
        let salt = Salt { journal, number: 0 };
        let file = begin_segment(&store, salt, 0, 0)
            .map_err(|source| JournalError::Io { path: store.settings.dir.clone(), source })?;
        store.make_spare_ahead();
        Ok(Self {
            store,
            salt,
            file,
            offset: FIRST_BLOCK,
            synced: FIRST_BLOCK,
            next: 0,
            write: 0,
            unsynced: false,
            buffer: Vec::new(),
            poisoned: None,
        })
    }

    /// The journal that it writes.
    pub fn journal(&self) -> JournalId {
        self.salt.journal
    }

    /// The sequence that the next event gets.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Writes a group; it is not synced, and cannot be read yet.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing of the group was taken then.
    pub fn append(&mut self, group: &[Records<'_>]) -> Result<(), AppendError> {
        self.check()?;
        self.write += 1;
        let blocks = self.build(group);
        let length = self.buffer.len() as u64;
        if length > self.store.settings.segment_bytes - FIRST_BLOCK {
            return Err(AppendError::TooLarge);
        }
        if !self.store.has_room_for(length) {
            return Err(AppendError::Full);
        }
        if self.offset + length > self.store.settings.segment_bytes {
            self.roll()?;
            // Offsets are part of the checksums.
            let _same = self.build(group);
        }
        if let Err(error) = self.file.write_at(&self.buffer, self.offset) {
            return Err(self.failed(error));
        }
        self.offset += length;
        self.next += blocks;
        self.unsynced = true;
        Ok(())
    }

    /// Makes durable what was appended; readers see it from then on.
    ///
    /// # Errors
    ///
    /// [`AppendError::Poisoned`]: what was appended since the last sync may be on disk, or not.
    pub fn sync(&mut self) -> Result<(), AppendError> {
        self.check()?;
        if !self.unsynced {
            return Ok(());
        }
        if let Err(error) = self.file.sync() {
            return Err(self.poison(&error));
        }
        self.unsynced = false;
        self.synced = self.offset;
        self.store.synced(self.next, self.synced);
        Ok(())
    }

    /// Writes an empty block, which testifies that everything before it is synced. It need not be synced itself.
    ///
    /// # Errors
    ///
    /// [`AppendError`].
    pub fn seal(&mut self) -> Result<(), AppendError> {
        self.sync()?;
        self.write += 1;
        let _none = self.build(&[]);
        let length = self.buffer.len() as u64;
        if self.offset + length > self.store.settings.segment_bytes {
            return Ok(());
        }
        if let Err(error) = self.file.write_at(&self.buffer, self.offset) {
            return Err(self.failed(error));
        }
        self.offset += length;
        self.unsynced = true;
        Ok(())
    }

    fn check(&self) -> Result<(), AppendError> {
        match &self.poisoned {
            Some(why) => Err(AppendError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    /// Fills the buffer with the blocks of a group, as they are to stand at the present offset; returns its events.
    fn build(&mut self, group: &[Records<'_>]) -> u64 {
        let out = &mut self.buffer;
        out.clear();
        out.shrink_to(4 * BLOCK_BYTES);
        let mut next = self.next;
        let mut block = BlockBuilder::begin(out);
        let mut offset = self.offset;
        let finish = |block: BlockBuilder, out: &mut Vec<u8>, offset: &mut u64, next: &mut u64| {
            let start = block.start();
            *next += u64::from(block.finish(out, self.salt, *offset, *next, self.write, self.synced));
            *offset += (out.len() - start) as u64;
        };
        for records in group {
            if !block.is_empty() && block.length_with(out, records.rows.len()) > BLOCK_BYTES {
                finish(block, out, &mut offset, &mut next);
                block = BlockBuilder::begin(out);
            }
            block.push(out, records.rows, records.events, records.keys);
        }
        finish(block, out, &mut offset, &mut next);
        next - self.next
    }

    /// Goes on in a new segment. What was appended to this one is synced first.
    fn roll(&mut self) -> Result<(), AppendError> {
        self.sync()?;
        let salt = Salt { number: self.salt.number + 1, ..self.salt };
        match begin_segment(&self.store, salt, self.next, self.synced) {
            Ok(file) => {
                self.file = file;
                self.salt = salt;
                self.offset = FIRST_BLOCK;
                self.synced = FIRST_BLOCK;
                let _kept = self.store.give_up_kept();
                self.store.make_spare_ahead();
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&mut self, error: io::Error) -> AppendError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                self.store.ran_out_of_space();
                AppendError::NoSpace(error)
            }
            _ => self.poison(&error),
        }
    }

    fn poison(&mut self, error: &io::Error) -> AppendError {
        let why = error.to_string();
        self.poisoned = Some(why.clone());
        self.store.poison();
        AppendError::Poisoned(why)
    }
}

/// A new segment, whose name is durable.
fn begin_segment(store: &Arc<Store>, salt: Salt, first: u64, previous_end: u64) -> io::Result<Arc<dyn File>> {
    let dir = &store.settings.dir;
    let path = dir.join(segment::name(salt));
    let created_ms =
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64;
    let file = store.take_spare(&path)?;
    let header = SegmentHeader { salt, first, previous_end, created_ms };
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    store.files.sync_dir(dir)?;
    store.opened(Segment {
        salt,
        file: Some(Arc::clone(&file)),
        path,
        created_ms,
        first,
        end: first,
        used: FIRST_BLOCK,
        bytes: store.settings.segment_bytes,
        kept: false,
    });
    Ok(file)
}

/// A journal that no other one is called.
pub(super) fn new_journal() -> JournalId {
    JournalId(Uuid::new_v4())
}
