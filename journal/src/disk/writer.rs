//! Appends groups of records to the current segment.

use std::io;
use std::sync::Arc;

use uuid::Uuid;

use super::AppendError;
use super::files::{File, is_no_space, is_shortage, uninterrupted, write_all};
use super::format::{BlockContent, BlockWriter, FIRST_BLOCK, PAGE, SegmentHeader, SegmentId, pad};
use super::segments::{JournalReader, SegmentState};
use super::{JournalId, Records};
use crate::tuple::tuples;

/// Size up to which records of a group share a block, or a sixteenth of a small segment. Larger records have a block of
/// their own. Bounds the cost of damage.
const BLOCK_BYTES: u64 = 256 << 10;

/// Appends to the current journal. Owned by one thread.
#[derive(Debug)]
pub struct JournalWriter {
    reader: Arc<JournalReader>,
    journal: JournalId,
    created_at_us: i64,
    next: u64,
    /// `next` at the last sync.
    synced_next: u64,
    next_number: u64,
    open: Option<OpenSegment>,
    /// Buffer for the blocks of a group, reused.
    bytes: Vec<u8>,
    plan: Vec<BlockPlan>,
}

/// The open segment.
#[derive(Debug)]
struct OpenSegment {
    file: Arc<dyn File>,
    nonce: u64,
    number: u64,
    bytes: u64,
    write_at: u64,
    synced_at: u64,
    /// Number of syncs.
    groups: u64,
    chain: u32,
    synced_chain: u32,
    /// Offsets of the blocks written since the last sync.
    unsynced: Vec<u64>,
    /// End of the last sync marker, if no block follows it.
    marked_at: u64,
    /// Offsets of refused blocks, to be zeroed before the next write.
    refused: Vec<u64>,
}

/// The records of one block.
#[derive(Debug, Clone, Copy)]
struct BlockPlan {
    content: BlockContent,
    records: (usize, usize),
}

impl JournalWriter {
    pub(super) fn new(reader: Arc<JournalReader>, (journal, created_at_us): (JournalId, i64)) -> Self {
        let (bytes, plan) = (Vec::new(), Vec::new());
        Self {
            reader,
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

    /// The current journal.
    pub fn journal(&self) -> JournalId {
        self.journal
    }

    /// Sequence of the next appended event.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Most bytes of a group's blocks: a segment without its header and a sync marker.
    pub fn largest_group(&self) -> u64 {
        self.reader.settings.segment_bytes - 2 * PAGE
    }

    /// Appends a group, all of it or nothing. Durable only after [`Self::flush`].
    ///
    /// # Errors
    ///
    /// Nothing of the group was appended, and the next sequence is unchanged. After [`AppendError::Poisoned`], a recovery may
    /// find some of the group.
    pub fn append(&mut self, group: &[Records<'_>]) -> Result<(), AppendError> {
        self.check_usable()?;
        let block_bytes = BLOCK_BYTES.min(self.reader.settings.segment_bytes / 16);
        let size = plan(group, block_bytes, &mut self.plan)?;
        if size > self.largest_group() {
            return Err(AppendError::TooLarge);
        }
        if size == 0 {
            return Ok(());
        }
        if self.reader.gate.is_gone() {
            return Err(AppendError::Gone);
        }
        self.check_free_space()?;
        if self.open.as_ref().is_none_or(|open| open.write_at + size > open.bytes - PAGE) {
            self.begin_segment()?;
        }
        let Some(open) = &mut self.open else { return Err(AppendError::Full) };
        open.erase_refused(&self.reader)?;

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
            let failed = self.reader.failed("write to the journal", error);
            if !matches!(failed, AppendError::Poisoned(_)) {
                open.refused = pages;
                // Without room for this either, the next append tries again.
                if let Err(AppendError::Poisoned(reason)) = open.erase_refused(&self.reader) {
                    return Err(AppendError::Poisoned(reason));
                }
            }
            return Err(failed);
        }
        (open.write_at, open.chain) = (writer.offset, writer.chain);
        open.unsynced.append(&mut pages);
        self.next = sequence;
        self.reader.gate.append_succeeded();
        self.close_gate_early();
        Ok(())
    }

    /// Makes all appended groups durable, and visible to readers.
    ///
    /// # Errors
    ///
    /// A failed sync is never repeated, since the system may mark lost pages as clean. After a shortage, the groups since the
    /// last sync are erased: their blocks are overwritten, and that is synced. Any other error is permanent: see
    /// [`AppendError::Poisoned`].
    pub fn flush(&mut self) -> Result<(), AppendError> {
        self.check_usable()?;
        let Some(open) = self.open.as_mut().filter(|open| open.synced_at < open.write_at) else {
            return Ok(());
        };
        if let Err(error) = uninterrupted(|| open.file.fdatasync()) {
            if !is_no_space(&error) && !is_shortage(&error) {
                return Err(self.reader.sync_failed(&error));
            }
            let kind = error.kind();
            let refused = self.reader.failed("sync the journal", error);
            open.roll_back();
            self.next = self.synced_next;
            return Err(match open.erase_refused(&self.reader) {
                Ok(()) => refused,
                Err(poisoned @ AppendError::Poisoned(_)) => poisoned,
                Err(_not_erased) => AppendError::InDoubt(kind.into()),
            });
        }
        (open.synced_at, open.synced_chain) = (open.write_at, open.chain);
        open.unsynced.clear();
        open.groups += 1;
        self.synced_next = self.next;
        self.reader.advance(self.next, open.write_at);
        let _only_diagnostic = self.reader.record_extent(self.journal);
        Ok(())
    }

    /// Writes a sync marker: later damage of the last block is then damage, and not a torn tail. Not synced, so a loss of
    /// power may drop it. For idle times and the end.
    ///
    /// # Errors
    ///
    /// As [`Self::append`].
    pub fn mark(&mut self) -> Result<(), AppendError> {
        self.check_usable()?;
        let journal = self.journal;
        let Some(open) = self.open.as_mut() else { return Ok(()) };
        let is_marked = open.synced_at == FIRST_BLOCK || open.marked_at == open.write_at;
        if is_marked || open.write_at + PAGE > open.bytes {
            return Ok(());
        }
        open.erase_refused(&self.reader)?;
        self.bytes.clear();
        let mut writer = open.writer(journal);
        writer.put(&mut self.bytes, self.next, BlockContent::default(), |_| ());
        if let Err(error) = write_all(&*open.file, &self.bytes, open.write_at) {
            open.refused = vec![open.write_at];
            return Err(self.reader.failed("write to the journal", error));
        }
        open.unsynced.push(open.write_at);
        (open.write_at, open.chain) = (writer.offset, writer.chain);
        open.marked_at = open.write_at;
        Ok(())
    }

    fn check_usable(&self) -> Result<(), AppendError> {
        match self.reader.gate.poisoned() {
            Some(reason) => Err(AppendError::Poisoned(reason.to_owned())),
            None => Ok(()),
        }
    }

    fn check_free_space(&self) -> Result<(), AppendError> {
        if self.reader.gate.free_is_stale() {
            // An unknown figure refuses nothing; the write itself may fail.
            let _old_figure_stays = self.reader.check_free_space();
        }
        if self.reader.gate.is_low() { Err(AppendError::MinFree) } else { Ok(()) }
    }

    /// Closes the gate before the last segment is full, so that it still has room for admitted events.
    fn close_gate_early(&self) {
        let reserve = (self.reader.settings.segment_bytes / 16).min(1 << 20);
        let ends = self.open.as_ref().is_some_and(|open| open.bytes - open.write_at < reserve);
        if ends && !self.reader.gate.is_full() && !self.reader.may_grow() {
            self.reader.gate.set_full(true);
            self.reader.wake();
        }
    }

    /// Continues in a new segment.
    pub(super) fn begin_segment(&mut self) -> Result<(), AppendError> {
        // Recovery relies on this: a segment with a successor is synced as a whole.
        self.flush()?;
        if let Some(open) = &mut self.open {
            open.erase_refused(&self.reader)?;
            self.reader.segment_took(open.groups);
        }
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let header = SegmentHeader {
            journal: self.journal,
            number: self.next_number,
            nonce: high ^ low,
            first: self.next,
            previous_synced: self.open.as_ref().map_or(0, |open| open.write_at),
            created_at_us: self.created_at_us,
            columns: self.reader.settings.columns.to_owned(),
        };
        let (file, segment) = self.reader.install(&header)?;
        self.open = Some(OpenSegment {
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
            marked_at: 0,
            refused: Vec::new(),
        });
        self.next_number += 1;
        self.reader.push(segment);
        self.reader.retry_extent(self.journal);
        let _only_diagnostic = self.reader.record_extent(self.journal);
        self.reader.wake();
        Ok(())
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.reader.stop_maintenance();
        let mut state = self.reader.state.lock();
        let current = state.journals.iter_mut().find(|journal| journal.current);
        if let Some(last) = current.and_then(|journal| journal.segments.back_mut())
            && last.state == SegmentState::Open
        {
            last.state = SegmentState::Sealed;
            last.file = None;
        }
    }
}

impl OpenSegment {
    /// Refuses the blocks written since the last sync.
    fn roll_back(&mut self) {
        self.refused.append(&mut self.unsynced);
        (self.write_at, self.chain) = (self.synced_at, self.synced_chain);
        if self.marked_at > self.synced_at {
            self.marked_at = 0;
        }
    }

    fn writer(&self, journal: JournalId) -> BlockWriter {
        BlockWriter {
            id: SegmentId { journal, number: self.number },
            nonce: self.nonce,
            synced_before: self.synced_at,
            chain: self.chain,
            offset: self.write_at,
        }
    }

    /// Overwrites the refused blocks, so that no recovery takes them for valid ones.
    fn erase_refused(&mut self, reader: &JournalReader) -> Result<(), AppendError> {
        if self.refused.is_empty() {
            return Ok(());
        }
        let zeroed: io::Result<()> =
            self.refused.iter().try_for_each(|page| write_all(&*self.file, &[0; PAGE as usize], *page));
        zeroed.map_err(|error| reader.failed("write to the journal", error))?;
        uninterrupted(|| self.file.fdatasync()).map_err(|error| {
            // The next try overwrites them once more, so that it syncs new writes.
            match is_no_space(&error) || is_shortage(&error) {
                true => reader.failed("sync the journal", error),
                false => reader.sync_failed(&error),
            }
        })?;
        self.refused.clear();
        Ok(())
    }
}

/// Distributes the group over blocks. Returns their size on disk.
fn plan(group: &[Records<'_>], block_bytes: u64, plan: &mut Vec<BlockPlan>) -> Result<u64, AppendError> {
    plan.clear();
    let mut size = 0;
    for (index, records) in group.iter().enumerate().filter(|(_, records)| records.events > 0) {
        debug_assert_eq!(tuples(records.rows).count(), records.events as usize);
        let (Ok(rows), Ok(keys)) = (u32::try_from(records.rows.len()), u32::try_from(records.keys.len()))
        else {
            return Err(AppendError::TooLarge);
        };
        let content = BlockContent { rows, events: records.events, keys };
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
            _ => plan.push(BlockPlan { content, records: (index, index + 1) }),
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
