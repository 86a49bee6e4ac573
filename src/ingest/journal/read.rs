//! Reads rows in the order of their sequences.
//!
//! There is no index: memory stays flat however much is pending. Whoever reads on where an earlier read ended finds the
//! place remembered; any other read walks from its segment's beginning.

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

use super::JournalId;
use super::error::JournalError;
use super::files::{Access, File};
use super::format::{BLOCK_HEADER, BlockHeader, FIRST_BLOCK, PAGE, SegmentHeader};
use super::losses::{Cause, Loss};
use super::recover::{Damage, DamagedBytes};
use super::scan::{Found, Start, Walk, Window};
use super::store::{Cursor, JournalReader, Segment, lock, segment_name};
use crate::ingest::keys::Key;
use crate::ingest::row;

/// Ends of reads that are remembered in a journal.
const CURSORS: usize = 32;
const READ_AHEAD: Range<usize> = 64 << 10..8 << 20;
/// How often bytes are read again before they count as damaged.
const REREADS: u32 = 1;

/// What a read gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Rows, as they were appended.
    Rows(Chunk),
    /// These events were synced and cannot be read any more.
    Damaged {
        /// The first that is missing.
        from: u64,
        /// One past the last that is missing.
        until: u64,
        /// Where their bytes are, or were.
        at: DamagedBytes,
    },
}

/// Rows of a chunk of sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The first sequence.
    pub from: u64,
    /// One past the last sequence.
    pub until: u64,
    /// Holds the rows, and what lies between them.
    pub buffer: Vec<u8>,
    /// Where in the buffer the rows are, in order.
    pub chunks: Vec<Range<usize>>,
    /// Keys with the sequences of their events, in order.
    pub keys: Vec<(u64, Key)>,
}

impl Chunk {
    /// The rows, a chunk at a time.
    pub fn rows(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.chunks.iter().map(|range| self.buffer.get(range.clone()).unwrap_or_default())
    }
}

/// Where a read begins.
enum Source {
    Segment(Segment, Cursor),
    /// The segments in between are not there; this is where the first of them would be.
    Hole {
        until: u64,
        at: DamagedBytes,
    },
}

impl JournalReader {
    /// Reads rows from the sequence `from` on, up to `until`, to what is synced, to the end of a segment, or until
    /// `max_bytes` are reached, whichever comes first; at least one block's. Damaged events come as a piece of their own.
    ///
    /// # Errors
    ///
    /// [`JournalError::NotHeld`] if `from` is not held or not synced yet.
    pub fn read(
        &self,
        journal: JournalId,
        from: u64,
        until: u64,
        max_bytes: usize,
    ) -> Result<Piece, JournalError> {
        if from >= until {
            return Ok(Piece::Rows(Chunk { from, until: from, ..Chunk::default() }));
        }
        match self.locate(journal, from)? {
            Source::Hole { until: end, at } => {
                Ok(self.damage(Damage { journal, from, until: until.min(end), at }, None))
            }
            Source::Segment(segment, cursor) => {
                let wanted = Wanted { from, until, max_bytes: max_bytes.max(1) };
                self.read_segment(&segment, cursor, wanted)
            }
        }
    }

    fn read_segment(&self, segment: &Segment, cursor: Cursor, wanted: Wanted) -> Result<Piece, JournalError> {
        let journal = segment.place.journal;
        let path = self.path(segment_name(segment.place));
        let file = match &segment.file {
            Some(file) => Arc::clone(file),
            None => match self.files.open(&path, Access::Read) {
                // Only where the folder is the one that was opened; another one is no evidence.
                Err(error) if error.kind() == ErrorKind::NotFound && self.is_missing(segment) => {
                    let at = DamagedBytes::missing(path, segment.place.number);
                    let (from, until) = (wanted.from, wanted.until.min(segment.end));
                    return Ok(self.damage(Damage { journal, from, until, at }, segment.nonce));
                }
                opened => opened.map_err(JournalError::io("open", &path))?,
            },
        };
        let mut tries = 0..REREADS;
        loop {
            let mut reader = Reader { store: self, segment, file: Arc::clone(&file), wanted };
            match reader.run(cursor) {
                Ok(piece) => return Ok(piece),
                Err(Stop::Io(source)) => return Err(JournalError::io("read", &path)(source)),
                Err(Stop::Gone) => return Err(JournalError::NotHeld { journal, sequence: wanted.from }),
                // What a cache has may not be what the disk has.
                Err(Stop::Damaged { .. }) if tries.next().is_some() => file.forget_cached(),
                Err(Stop::Damaged { from, until, offset, next, unread }) => {
                    let copy = self.quarantine(segment.place, &*file, offset, next);
                    let cause = if unread { Cause::Unreadable } else { Cause::Corrupt };
                    let bytes = next.min(segment.bytes).saturating_sub(offset);
                    let number = segment.place.number;
                    let at = DamagedBytes { segment: path, number, offset, bytes, copy, cause };
                    return Ok(self.damage(Damage { journal, from, until, at }, segment.nonce));
                }
            }
        }
    }

    /// Whether a segment whose file is not found should have one. Beside a running service only one that was not there from
    /// the beginning: others may have been given up meanwhile.
    fn is_missing(&self, segment: &Segment) -> bool {
        if self.read_only {
            return segment.bytes == 0;
        }
        let is_held = |held: &Segment| held.place == segment.place;
        let state = lock(&self.state);
        let holds = state.journals.iter().any(|journal| journal.segments.iter().any(is_held));
        drop(state);
        holds && self.is_in_place()
    }

    /// Damage in place of rows; where this process owns the journal, a loss that is recorded.
    fn damage(&self, damage: Damage, nonce: Option<u64>) -> Piece {
        self.record_loss(Loss::of(&damage, nonce));
        Piece::Damaged { from: damage.from, until: damage.until, at: damage.at }
    }

    fn locate(&self, journal: JournalId, sequence: u64) -> Result<Source, JournalError> {
        let not_held = JournalError::NotHeld { journal, sequence };
        let state = lock(&self.state);
        let Some(held) = state.journals.iter().find(|held| held.id == journal) else { return Err(not_held) };
        if sequence < held.first() {
            return Err(not_held);
        }
        // The first that ends behind the sequence; those before it end before it.
        let index = held.segments.partition_point(|segment| segment.end <= sequence);
        let Some(segment) = held.segments.get(index) else { return Err(not_held) };
        if segment.first > sequence {
            let before = index.checked_sub(1).and_then(|index| held.segments.get(index));
            let mut missing = segment.place;
            missing.number = before.map_or(0, |before| before.place.number + 1);
            let at = DamagedBytes::missing(self.path(segment_name(missing)), missing.number);
            return Ok(Source::Hole { until: segment.first, at });
        }
        let number = segment.place.number;
        let remembered = held.cursors.iter().filter(|cursor| cursor.number == number);
        let nearest =
            remembered.filter(|cursor| cursor.sequence <= sequence).max_by_key(|cursor| cursor.offset);
        let beginning = Cursor { number, offset: FIRST_BLOCK, sequence: segment.first, chain: Some(0) };
        Ok(Source::Segment(segment.clone(), nearest.copied().unwrap_or(beginning)))
    }

    fn remember(&self, journal: JournalId, used: Cursor, next: Cursor) {
        let mut state = lock(&self.state);
        if let Some(held) = state.journals.iter_mut().find(|held| held.id == journal) {
            held.cursors.retain(|cursor| (cursor.number, cursor.offset) != (used.number, used.offset));
            if held.cursors.len() >= CURSORS {
                held.cursors.pop_front();
            }
            held.cursors.push_back(next);
        }
    }
}

struct Reader<'a> {
    store: &'a JournalReader,
    segment: &'a Segment,
    file: Arc<dyn File>,
    wanted: Wanted,
}

/// What a read asks for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    from: u64,
    until: u64,
    max_bytes: usize,
}

enum Stop {
    Io(std::io::Error),
    /// The file is another segment's by now.
    Gone,
    Damaged {
        from: u64,
        until: u64,
        offset: u64,
        next: u64,
        unread: bool,
    },
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// The blocks that a chunk is made of.
#[derive(Default)]
struct Kept {
    blocks: Vec<(u64, BlockHeader)>,
    keys: Vec<(u64, Key)>,
}

impl Reader<'_> {
    fn run(&mut self, begin: Cursor) -> Result<Piece, Stop> {
        let used = self.segment.used;
        let start = Start { offset: begin.offset, sequence: begin.sequence, chain: begin.chain };
        let ahead = self.wanted.max_bytes.clamp(READ_AHEAD.start, READ_AHEAD.end);
        let window = Window::new(Arc::clone(&self.file), start.offset, ahead, used);
        let mut walk = Walk::new(window, self.segment.place, self.segment.nonce, used, start);
        let mut kept = Kept::default();
        // Where the next read goes on: behind the last block that is wholly used.
        let mut resume = start;
        loop {
            let at = walk.at();
            if at.sequence >= self.wanted.until || kept.bytes(at.offset) >= self.wanted.max_bytes as u64 {
                break;
            }
            match walk.next()? {
                Found::Block { offset, header } => {
                    if header.end() > self.wanted.from && header.events > 0 {
                        self.keep(&mut kept, &mut walk, offset, &header)?;
                    } else if kept.blocks.is_empty() {
                        walk.window().tidy(offset);
                    }
                    if header.end() <= self.wanted.until {
                        resume = walk.at();
                    }
                }
                Found::Damage { from, until, offset, next } => {
                    if !kept.blocks.is_empty() {
                        break;
                    }
                    let until = if next >= used { self.segment.end } else { until };
                    if until > self.wanted.from {
                        return Err(self.damaged(&walk, (from, until), (offset, next)));
                    }
                }
                Found::End { offset } => {
                    if kept.blocks.is_empty() {
                        return Err(self.damaged(&walk, (at.sequence, self.segment.end), (offset, used)));
                    }
                    break;
                }
            }
        }
        let number = begin.number;
        let next = Cursor { number, offset: resume.offset, sequence: resume.sequence, chain: resume.chain };
        self.store.remember(self.segment.place.journal, begin, next);
        Ok(Piece::Rows(self.chunk(kept, walk)))
    }

    fn keep(
        &self,
        kept: &mut Kept,
        walk: &mut Walk,
        offset: u64,
        header: &BlockHeader,
    ) -> std::io::Result<()> {
        if header.keys > 0 {
            let (from, until) = (self.wanted.from, self.wanted.until);
            let bytes = walk.bytes(offset, header)?;
            kept.keys.extend(header.keys(bytes).filter(|(sequence, _)| (from..until).contains(sequence)));
        }
        if kept.blocks.is_empty() {
            walk.window().read_less();
        }
        kept.blocks.push((offset, *header));
        Ok(())
    }

    fn chunk(&self, kept: Kept, walk: Walk) -> Chunk {
        let (base, buffer) = walk.into_window().into_bytes();
        let mut until = self.wanted.from;
        let mut chunks = Vec::with_capacity(kept.blocks.len());
        for (offset, header) in kept.blocks {
            let start = (offset - base) as usize + BLOCK_HEADER;
            let rows = start..start + header.rows as usize;
            let wanted = self.wanted.from.max(header.first)..self.wanted.until.min(header.end());
            let bytes = buffer.get(rows.clone()).unwrap_or_default();
            let skipped = tuples_bytes(bytes, wanted.start - header.first, header.events);
            let taken = tuples_bytes(bytes, wanted.end - header.first, header.events);
            chunks.push(rows.start + skipped..rows.start + taken);
            until = wanted.end;
        }
        Chunk { from: self.wanted.from, until, buffer, chunks, keys: kept.keys }
    }

    fn damaged(&self, walk: &Walk, (from, until): (u64, u64), (offset, next): (u64, u64)) -> Stop {
        // Beside a running service, the file may have become another segment's since it was looked up.
        if self.store.read_only && self.is_gone() {
            return Stop::Gone;
        }
        let (from, until) = (from.max(self.wanted.from), until.min(self.wanted.until));
        Stop::Damaged { from, until, offset, next, unread: walk.has_unread() }
    }

    fn is_gone(&self) -> bool {
        let path = self.store.path(segment_name(self.segment.place));
        let mut page = vec![0; PAGE as usize];
        let read = self.file.pread(&mut page, 0);
        let header = SegmentHeader::decode(&page);
        let other = header.is_ok_and(|header| {
            (header.journal, header.number) != (self.segment.place.journal, self.segment.place.number)
        });
        read.is_err() || other || self.store.files.open(&path, Access::Read).is_err()
    }
}

impl Kept {
    /// From the first block up to `offset`.
    fn bytes(&self, offset: u64) -> u64 {
        self.blocks.first().map_or(0, |(first, _)| offset - first)
    }
}

/// Bytes of the first `count` of `events` tuples.
pub(super) fn tuples_bytes(rows: &[u8], count: u64, events: u32) -> usize {
    if count >= u64::from(events) {
        return rows.len();
    }
    row::tuples(rows).take(count as usize).map(|tuple| tuple.bytes().len()).sum()
}
