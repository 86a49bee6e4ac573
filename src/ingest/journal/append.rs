//! Appends groups of records to the current journal.

use std::io;
use std::sync::Arc;

use uuid::Uuid;

use super::error::AppendError;
use super::files::{File, is_no_space, is_shortage, uninterrupted, write_all};
use super::format::{BlockWriter, Content, FIRST_BLOCK, PAGE, Place, SegmentHeader, pad};
use super::store::{JournalReader, SegmentState, lock};
use super::{JournalId, Records};
use crate::ingest::row;

/// Records of a group share a block up to this size, or a sixteenth of a small segment; a larger one has its own. So
/// damage costs that much at most.
const BLOCK_BYTES: u64 = 256 << 10;

/// The one who appends. Lives on one thread.
#[derive(Debug)]
pub struct JournalWriter {
    store: Arc<JournalReader>,
    journal: JournalId,
    created_at_us: i64,
    next: u64,
    /// What `next` was at the last sync.
    synced_next: u64,
    next_number: u64,
    open: Option<Open>,
    /// The blocks of a group; kept for its memory.
    bytes: Vec<u8>,
    plan: Vec<Planned>,
}

/// The segment that is appended to.
#[derive(Debug)]
struct Open {
    file: Arc<dyn File>,
    nonce: u64,
    number: u64,
    bytes: u64,
    write_at: u64,
    synced_at: u64,
    /// How often it was synced.
    groups: u64,
    chain: u32,
    synced_chain: u32,
    /// The first pages of the blocks that were written since the last sync.
    unsynced: Vec<u64>,
    /// Where the last block is a marker that says all there is to say.
    sealed_at: u64,
    /// The first pages of blocks that could not be written whole, to be zeroed before anything else is written.
    remains: Vec<u64>,
}

/// The records that go into one block.
#[derive(Debug, Clone, Copy)]
struct Planned {
    content: Content,
    records: (usize, usize),
}

impl JournalWriter {
    pub(super) fn new(store: Arc<JournalReader>, (journal, created_at_us): (JournalId, i64)) -> Self {
        let (bytes, plan) = (Vec::new(), Vec::new());
        Self {
            store,
            journal,
            created_at_us,
            next: 0,
            synced_next: 0,
            next_number: 0,
            open: None,
            bytes,
            plan,
        }
    }

    /// The journal that is appended to.
    pub fn journal(&self) -> JournalId {
        self.journal
    }

    /// The sequence of the next event to be appended.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The most bytes that the blocks of one group may take: those of a segment without its header and a last marker.
    pub fn largest_group(&self) -> u64 {
        self.store.settings.segment_bytes - 2 * PAGE
    }

    /// Writes a group, all of it or nothing. It counts for nothing until it is synced.
    ///
    /// # Errors
    ///
    /// Nothing of the group was appended, and the next sequence is what it was. Only after a poisoned append may some of
    /// the group be found again by a recovery.
    pub fn append(&mut self, group: &[Records<'_>]) -> Result<(), AppendError> {
        self.usable()?;
        let block_bytes = BLOCK_BYTES.min(self.store.settings.segment_bytes / 16);
        let size = plan(group, block_bytes, &mut self.plan)?;
        if size > self.largest_group() {
            return Err(AppendError::TooLarge);
        }
        if size == 0 {
            return Ok(());
        }
        if self.store.gate.is_gone() {
            return Err(AppendError::Gone);
        }
        self.look_at_free_space()?;
        if self.open.as_ref().is_none_or(|open| open.write_at + size > open.bytes - PAGE) {
            self.roll()?;
        }
        let Some(open) = &mut self.open else { return Err(AppendError::Full) };
        open.cut(&self.store)?;

        self.bytes.clear();
        let mut writer = open.writer(self.journal);
        let (mut sequence, mut pages) = (self.next, Vec::with_capacity(self.plan.len()));
        for planned in &self.plan {
            pages.push(writer.offset);
            let records = group.get(planned.records.0..planned.records.1).unwrap_or_default();
            writer.put(&mut self.bytes, sequence, planned.content, |out| put_records(out, records));
            sequence += u64::from(planned.content.events);
        }
        if let Err(error) = write_all(&*open.file, &self.bytes, open.write_at) {
            let refused = self.store.failed("write to the journal", error);
            if !matches!(refused, AppendError::Poisoned(_)) {
                open.remains = pages;
                // Tried again by the next append, if there is no room even for this.
                if let Err(AppendError::Poisoned(reason)) = open.cut(&self.store) {
                    return Err(AppendError::Poisoned(reason));
                }
            }
            return Err(refused);
        }
        (open.write_at, open.chain) = (writer.offset, writer.chain);
        open.unsynced.append(&mut pages);
        self.next = sequence;
        self.store.gate.has_resources();
        self.look_ahead();
        Ok(())
    }

    /// Makes all that was appended survive a loss of power, and shows it to the readers.
    ///
    /// # Errors
    ///
    /// A sync that failed is never repeated, since the system may call pages clean that it lost. After a shortage what was
    /// appended since the last sync is taken back: its blocks are written over, which is synced anew. Any other error is
    /// for ever: see [`AppendError::Poisoned`].
    pub fn sync(&mut self) -> Result<(), AppendError> {
        self.usable()?;
        let Some(open) = self.open.as_mut().filter(|open| open.synced_at < open.write_at) else {
            return Ok(());
        };
        if let Err(error) = uninterrupted(|| open.file.fdatasync()) {
            if !is_no_space(&error) && !is_shortage(&error) {
                return Err(self.store.sync_failed(&error));
            }
            let doubt = error.kind();
            let refused = self.store.failed("sync the journal", error);
            open.take_back();
            self.next = self.synced_next;
            return Err(match open.cut(&self.store) {
                Ok(()) => refused,
                Err(poisoned @ AppendError::Poisoned(_)) => poisoned,
                Err(_no_room_for_that_either) => AppendError::InDoubt(doubt.into()),
            });
        }
        (open.synced_at, open.synced_chain) = (open.write_at, open.chain);
        open.unsynced.clear();
        open.groups += 1;
        self.synced_next = self.next;
        self.store.advance(self.next, open.write_at);
        let _less_is_known_after_damage = self.store.note_extent(self.journal);
        Ok(())
    }

    /// Writes a marker that says how far all is synced, so that later damage of the last block is not mistaken for a torn
    /// tail. Wants no sync: without one it is lost, at worst. For times of idleness and the end.
    ///
    /// # Errors
    ///
    /// As [`Self::append`].
    pub fn seal(&mut self) -> Result<(), AppendError> {
        self.usable()?;
        let journal = self.journal;
        let Some(open) = self.open.as_mut() else { return Ok(()) };
        let nothing_to_say = open.synced_at == FIRST_BLOCK || open.sealed_at == open.write_at;
        if nothing_to_say || open.write_at + PAGE > open.bytes {
            return Ok(());
        }
        open.cut(&self.store)?;
        self.bytes.clear();
        let mut writer = open.writer(journal);
        writer.put(&mut self.bytes, self.next, Content::default(), |_| ());
        if let Err(error) = write_all(&*open.file, &self.bytes, open.write_at) {
            open.remains = vec![open.write_at];
            return Err(self.store.failed("write to the journal", error));
        }
        open.unsynced.push(open.write_at);
        (open.write_at, open.chain) = (writer.offset, writer.chain);
        open.sealed_at = open.write_at;
        Ok(())
    }

    fn usable(&self) -> Result<(), AppendError> {
        match self.store.gate.poisoned() {
            Some(reason) => Err(AppendError::Poisoned(reason.to_owned())),
            None => Ok(()),
        }
    }

    fn look_at_free_space(&self) -> Result<(), AppendError> {
        if self.store.gate.free_is_stale() {
            // A figure that cannot be had is no reason to refuse; the write itself will tell.
            let _old_figure_stays = self.store.look_at_free_space();
        }
        if self.store.gate.is_low() { Err(AppendError::MinFree) } else { Ok(()) }
    }

    /// Closes the gate while the little that is left of the last segment still takes what was admitted before.
    fn look_ahead(&self) {
        let little = (self.store.settings.segment_bytes / 16).min(1 << 20);
        let ends = self.open.as_ref().is_some_and(|open| open.bytes - open.write_at < little);
        if ends && !self.store.gate.is_full() && !self.store.may_grow() {
            self.store.gate.set_full(true);
            self.store.wake();
        }
    }

    /// Goes on in a new segment.
    pub(super) fn roll(&mut self) -> Result<(), AppendError> {
        // A segment that has another one behind it is synced as a whole: this is what recovery builds on.
        self.sync()?;
        if let Some(open) = &mut self.open {
            open.cut(&self.store)?;
            self.store.segment_took(open.groups);
        }
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let header = SegmentHeader {
            journal: self.journal,
            number: self.next_number,
            nonce: high ^ low,
            first: self.next,
            previous_synced: self.open.as_ref().map_or(0, |open| open.write_at),
            created_at_us: self.created_at_us,
            columns: row::COLUMNS.to_owned(),
        };
        let (file, segment) = self.store.install(&header)?;
        self.open = Some(Open {
            file,
            nonce: header.nonce,
            number: header.number,
            bytes: segment.bytes,
            write_at: FIRST_BLOCK,
            synced_at: FIRST_BLOCK,
            groups: 0,
            chain: 0,
            synced_chain: 0,
            unsynced: Vec::new(),
            sealed_at: 0,
            remains: Vec::new(),
        });
        self.next_number += 1;
        self.store.push(segment);
        self.store.retry_extent(self.journal);
        let _less_is_known_after_damage = self.store.note_extent(self.journal);
        self.store.wake();
        Ok(())
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.store.stop_maintenance();
        let mut state = lock(&self.store.state);
        let current = state.journals.iter_mut().find(|journal| journal.current);
        if let Some(last) = current.and_then(|journal| journal.segments.back_mut())
            && last.state == SegmentState::Open
        {
            last.state = SegmentState::Sealed;
            last.file = None;
        }
    }
}

impl Open {
    /// What was written since the last sync counts for nothing, and is to be written over.
    fn take_back(&mut self) {
        self.remains.append(&mut self.unsynced);
        (self.write_at, self.chain) = (self.synced_at, self.synced_chain);
        if self.sealed_at > self.synced_at {
            self.sealed_at = 0;
        }
    }

    fn writer(&self, journal: JournalId) -> BlockWriter {
        BlockWriter {
            place: Place { journal, number: self.number },
            nonce: self.nonce,
            synced_before: self.synced_at,
            chain: self.chain,
            offset: self.write_at,
        }
    }

    /// Makes sure that nothing of a group that could not be written is ever taken for a block: its answer was a refusal.
    fn cut(&mut self, store: &JournalReader) -> Result<(), AppendError> {
        if self.remains.is_empty() {
            return Ok(());
        }
        let zeroed: io::Result<()> =
            self.remains.iter().try_for_each(|page| write_all(&*self.file, &[0; PAGE as usize], *page));
        zeroed.map_err(|error| store.failed("write to the journal", error))?;
        uninterrupted(|| self.file.fdatasync()).map_err(|error| {
            // Written over once more by the next try, so that a sync is one of new writes.
            match is_no_space(&error) || is_shortage(&error) {
                true => store.failed("sync the journal", error),
                false => store.sync_failed(&error),
            }
        })?;
        self.remains.clear();
        Ok(())
    }
}

/// Deals the group out to blocks; their size on disk.
fn plan(group: &[Records<'_>], block_bytes: u64, plan: &mut Vec<Planned>) -> Result<u64, AppendError> {
    plan.clear();
    let mut size = 0;
    for (index, records) in group.iter().enumerate().filter(|(_, records)| records.events > 0) {
        debug_assert_eq!(row::tuples(records.rows).count(), records.events as usize);
        let (Ok(rows), Ok(keys)) = (u32::try_from(records.rows.len()), u32::try_from(records.keys.len()))
        else {
            return Err(AppendError::TooLarge);
        };
        let content = Content { rows, events: records.events, keys };
        if u32::try_from(content.length()).is_err() {
            return Err(AppendError::TooLarge);
        }
        match plan.last_mut() {
            Some(last) if last.content.length() + content.length() <= block_bytes => {
                last.content.rows += rows;
                last.content.events += content.events;
                last.content.keys += keys;
                last.records.1 = index + 1;
            }
            _ => plan.push(Planned { content, records: (index, index + 1) }),
        }
    }
    for planned in plan {
        size += pad(planned.content.length());
    }
    Ok(size)
}

fn put_records(out: &mut Vec<u8>, records: &[Records<'_>]) {
    let records = || records.iter().filter(|records| records.events > 0);
    for record in records() {
        out.extend_from_slice(record.rows);
    }
    let mut first = 0;
    for record in records() {
        for (index, key) in record.keys {
            out.extend_from_slice(&(first + index).to_le_bytes());
            out.extend_from_slice(key);
        }
        first += record.events;
    }
}
