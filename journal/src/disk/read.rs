//! Reads rows in the order of their sequences.
//!
//! Without an index, so memory does not grow with the backlog. The ends of recent reads are kept as cursors: a read that
//! continues an earlier one resumes there. Any other read scans its segment from the beginning.

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

use super::damage::{Cause, Damage, DamagedBytes};
use super::files::{Access, File};
use super::format::{BLOCK_HEADER, BlockHeader, FIRST_BLOCK, PAGE, SegmentHeader};
use super::losses::Loss;
use super::scan::{BlockScanner, ScanItem, ScanPosition, Window};
use super::segments::{JournalReader, ReadCursor, Segment, segment_name};
use super::{DiskError, JournalError, JournalId, JournalRead, JournalRows};
use crate::Key;
use crate::tuple::tuples;

/// Number of cursors of a journal.
const CURSORS: usize = 32;
const READ_AHEAD: Range<usize> = 64 << 10..8 << 20;
/// Retries before bytes count as damaged.
const REREADS: u32 = 1;

/// Start of a read.
enum ReadStart {
    Segment(Segment, ReadCursor),
    /// Segments are missing; `at` is the first of them.
    Missing {
        until: u64,
        at: DamagedBytes,
    },
}

impl JournalReader {
    /// Reads rows from the sequence `from` on, up to `until`, the last flushed sequence, the end of a segment, or `max_bytes`,
    /// whichever comes first, but at least those of one block. Damaged events are reported in a read of their own.
    ///
    /// # Errors
    ///
    /// [`JournalError::NotHeld`]: `from` is not held or not flushed yet. [`JournalError::Storage`]: the storage failed.
    pub fn read(
        &self,
        journal: JournalId,
        from: u64,
        until: u64,
        max_bytes: usize,
    ) -> Result<JournalRead, JournalError> {
        if from >= until {
            return Ok(JournalRead::Rows(JournalRows { from, until: from, ..JournalRows::default() }));
        }
        match self.locate(journal, from)? {
            ReadStart::Missing { until: end, at } => {
                Ok(self.damage(Damage { journal, from, until: until.min(end), at }, None))
            }
            ReadStart::Segment(segment, cursor) => {
                let request = ReadRequest { from, until, max_bytes: max_bytes.max(1) };
                self.read_segment(&segment, cursor, request)
            }
        }
    }

    fn read_segment(
        &self,
        segment: &Segment,
        cursor: ReadCursor,
        request: ReadRequest,
    ) -> Result<JournalRead, JournalError> {
        let journal = segment.id.journal;
        let path = self.path(segment_name(segment.id));
        let file = match &segment.file {
            Some(file) => Arc::clone(file),
            None => match self.files.open(&path, Access::Read) {
                // Only if the folder is the one that was opened: a replaced one proves nothing.
                Err(error) if error.kind() == ErrorKind::NotFound && self.is_missing(segment) => {
                    let at = DamagedBytes::missing(path, segment.id.number);
                    let (from, until) = (request.from, request.until.min(segment.end));
                    return Ok(self.damage(Damage { journal, from, until, at }, segment.nonce));
                }
                opened => opened.map_err(DiskError::io("open", &path))?,
            },
        };
        let mut retries = 0..REREADS;
        loop {
            let mut reader = SegmentReader { reader: self, segment, file: Arc::clone(&file), request };
            match reader.run(cursor) {
                Ok(read) => return Ok(read),
                Err(ReadFailure::Io(source)) => return Err(DiskError::io("read", &path)(source).into()),
                Err(ReadFailure::Gone) => {
                    return Err(JournalError::NotHeld { journal, sequence: request.from });
                }
                // The page cache may differ from the disk.
                Err(ReadFailure::Damaged { .. }) if retries.next().is_some() => file.forget_cached(),
                Err(ReadFailure::Damaged { from, until, offset, next, unreadable }) => {
                    let copy = self.quarantine(segment.id, &*file, offset, next);
                    let cause = if unreadable { Cause::Unreadable } else { Cause::Corrupt };
                    let bytes = next.min(segment.bytes).saturating_sub(offset);
                    let number = segment.id.number;
                    let at = DamagedBytes { segment: path, number, offset, bytes, copy, cause };
                    return Ok(self.damage(Damage { journal, from, until, at }, segment.nonce));
                }
            }
        }
    }

    /// Whether a file that does not exist should. Beside a running service, only if it was missing at the inspection: others
    /// may have been released meanwhile.
    fn is_missing(&self, segment: &Segment) -> bool {
        if !self.is_owner() {
            return segment.bytes == 0;
        }
        let is_held = |held: &Segment| held.id == segment.id;
        let state = self.state.lock();
        let holds = state.journals.iter().any(|journal| journal.segments.iter().any(is_held));
        drop(state);
        holds && self.is_in_place()
    }

    /// Reports damage in place of rows, and records it as a loss if this process owns the journal.
    fn damage(&self, damage: Damage, nonce: Option<u64>) -> JournalRead {
        self.record_loss(Loss::of(&damage, nonce));
        JournalRead::Damaged { from: damage.from, until: damage.until, at: damage.at }
    }

    fn locate(&self, journal: JournalId, sequence: u64) -> Result<ReadStart, JournalError> {
        let not_held = JournalError::NotHeld { journal, sequence };
        let state = self.state.lock();
        let Some(held) = state.journals.iter().find(|held| held.id == journal) else { return Err(not_held) };
        if sequence < held.first() {
            return Err(not_held);
        }
        // The first segment that ends after the sequence.
        let index = held.segments.partition_point(|segment| segment.end <= sequence);
        let Some(segment) = held.segments.get(index) else { return Err(not_held) };
        if segment.first > sequence {
            let before = index.checked_sub(1).and_then(|index| held.segments.get(index));
            let mut missing = segment.id;
            missing.number = before.map_or(0, |before| before.id.number + 1);
            let at = DamagedBytes::missing(self.path(segment_name(missing)), missing.number);
            return Ok(ReadStart::Missing { until: segment.first, at });
        }
        let number = segment.id.number;
        let cursors = held.cursors.iter().filter(|cursor| cursor.number == number);
        let nearest = cursors.filter(|cursor| cursor.sequence <= sequence).max_by_key(|cursor| cursor.offset);
        let beginning = ReadCursor { number, offset: FIRST_BLOCK, sequence: segment.first, chain: Some(0) };
        Ok(ReadStart::Segment(segment.clone(), nearest.copied().unwrap_or(beginning)))
    }

    fn keep_cursor(&self, journal: JournalId, used: ReadCursor, next: ReadCursor) {
        let mut state = self.state.lock();
        if let Some(held) = state.journals.iter_mut().find(|held| held.id == journal) {
            held.cursors.retain(|cursor| (cursor.number, cursor.offset) != (used.number, used.offset));
            if held.cursors.len() >= CURSORS {
                held.cursors.pop_front();
            }
            held.cursors.push_back(next);
        }
    }
}

/// One read of a segment.
struct SegmentReader<'a> {
    reader: &'a JournalReader,
    segment: &'a Segment,
    file: Arc<dyn File>,
    request: ReadRequest,
}

/// Arguments of a read.
#[derive(Debug, Clone, Copy)]
struct ReadRequest {
    from: u64,
    until: u64,
    max_bytes: usize,
}

/// Why a segment has no rows at the requested sequence.
enum ReadFailure {
    Io(std::io::Error),
    /// The file was recycled for another segment.
    Gone,
    Damaged {
        from: u64,
        until: u64,
        offset: u64,
        next: u64,
        unreadable: bool,
    },
}

impl From<std::io::Error> for ReadFailure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// The blocks of the returned rows.
#[derive(Default)]
struct SelectedBlocks {
    blocks: Vec<(u64, BlockHeader)>,
    keys: Vec<(u64, Key)>,
}

impl SegmentReader<'_> {
    fn run(&mut self, begin: ReadCursor) -> Result<JournalRead, ReadFailure> {
        let used = self.segment.used;
        let start = ScanPosition { offset: begin.offset, sequence: begin.sequence, chain: begin.chain };
        let ahead = self.request.max_bytes.clamp(READ_AHEAD.start, READ_AHEAD.end);
        let window = Window::new(Arc::clone(&self.file), start.offset, ahead, used);
        let mut scanner = BlockScanner::new(window, self.segment.id, self.segment.nonce, used, start);
        let mut selected = SelectedBlocks::default();
        // Start of the next read: behind the last block that is returned whole.
        let mut resume = start;
        loop {
            let at = scanner.at();
            if at.sequence >= self.request.until || selected.bytes(at.offset) >= self.request.max_bytes as u64
            {
                break;
            }
            match scanner.next()? {
                ScanItem::Block { offset, header } => {
                    if header.end() > self.request.from && header.events > 0 {
                        self.select(&mut selected, &mut scanner, offset, &header)?;
                    } else if selected.blocks.is_empty() {
                        scanner.window().compact(offset);
                    }
                    if header.end() <= self.request.until {
                        resume = scanner.at();
                    }
                }
                ScanItem::Damage { from, until, offset, next } => {
                    if !selected.blocks.is_empty() {
                        break;
                    }
                    let until = if next >= used { self.segment.end } else { until };
                    if until > self.request.from {
                        return Err(self.damaged(&scanner, (from, until), (offset, next)));
                    }
                }
                ScanItem::End { offset } => {
                    if selected.blocks.is_empty() {
                        return Err(self.damaged(&scanner, (at.sequence, self.segment.end), (offset, used)));
                    }
                    break;
                }
            }
        }
        let number = begin.number;
        let next =
            ReadCursor { number, offset: resume.offset, sequence: resume.sequence, chain: resume.chain };
        self.reader.keep_cursor(self.segment.id.journal, begin, next);
        Ok(JournalRead::Rows(self.rows(selected, scanner)))
    }

    fn select(
        &self,
        selected: &mut SelectedBlocks,
        scanner: &mut BlockScanner,
        offset: u64,
        header: &BlockHeader,
    ) -> std::io::Result<()> {
        if header.keys > 0 {
            let (from, until) = (self.request.from, self.request.until);
            let bytes = scanner.bytes(offset, header)?;
            selected.keys.extend(header.keys(bytes).filter(|(sequence, _)| (from..until).contains(sequence)));
        }
        if selected.blocks.is_empty() {
            scanner.window().stop_reading_ahead();
        }
        selected.blocks.push((offset, *header));
        Ok(())
    }

    fn rows(&self, selected: SelectedBlocks, scanner: BlockScanner) -> JournalRows {
        let (base, buffer) = scanner.into_window().into_bytes();
        let mut until = self.request.from;
        let mut ranges = Vec::with_capacity(selected.blocks.len());
        for (offset, header) in selected.blocks {
            let start = (offset - base) as usize + BLOCK_HEADER;
            let rows = start..start + header.rows as usize;
            let returned = self.request.from.max(header.first)..self.request.until.min(header.end());
            let bytes = buffer.get(rows.clone()).unwrap_or_default();
            let skipped = tuples_bytes(bytes, returned.start - header.first, header.events);
            let taken = tuples_bytes(bytes, returned.end - header.first, header.events);
            ranges.push(rows.start + skipped..rows.start + taken);
            until = returned.end;
        }
        JournalRows { from: self.request.from, until, buffer, ranges, keys: selected.keys }
    }

    fn damaged(
        &self,
        scanner: &BlockScanner,
        (from, until): (u64, u64),
        (offset, next): (u64, u64),
    ) -> ReadFailure {
        // Beside a running service, the file may have been recycled meanwhile.
        if !self.reader.is_owner() && self.is_recycled() {
            return ReadFailure::Gone;
        }
        let (from, until) = (from.max(self.request.from), until.min(self.request.until));
        ReadFailure::Damaged { from, until, offset, next, unreadable: scanner.has_unreadable() }
    }

    fn is_recycled(&self) -> bool {
        let path = self.reader.path(segment_name(self.segment.id));
        let mut page = vec![0; PAGE as usize];
        let read = self.file.pread(&mut page, 0);
        let header = SegmentHeader::decode(&page);
        let other = header.is_ok_and(|header| {
            (header.journal, header.number) != (self.segment.id.journal, self.segment.id.number)
        });
        read.is_err() || other || self.reader.files.open(&path, Access::Read).is_err()
    }
}

impl SelectedBlocks {
    /// Bytes from the first block up to `offset`.
    fn bytes(&self, offset: u64) -> u64 {
        self.blocks.first().map_or(0, |(first, _)| offset - first)
    }
}

/// Length in bytes of the first `count` of `events` tuples.
pub(super) fn tuples_bytes(rows: &[u8], count: u64, events: u32) -> usize {
    if count >= u64::from(events) {
        return rows.len();
    }
    tuples(rows).take(count as usize).map(|tuple| tuple.bytes().len()).sum()
}
