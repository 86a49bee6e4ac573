//! Scans the blocks of a segment, and distinguishes damage from a torn tail.
//!
//! The only code that validates blocks: recovery, reads and the fuzzer use it.

use std::array;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::files::{File, READ_PAUSES, is_unreadable, read_patiently, read_up_to};
use super::format::{BLOCK_HEADER, BlockHeader, FIRST_BLOCK, PAGE, SegmentId, looks_like_block};

/// Bytes that a scan reads at once.
pub(super) const SCAN_AHEAD: usize = 1 << 20;
const READ_LESS: usize = 64 << 10;

/// Sliding window over a segment's file, with read-ahead.
#[derive(Debug)]
pub(super) struct Window {
    file: Arc<dyn File>,
    /// Offset of the window in the file.
    base: u64,
    bytes: Vec<u8>,
    /// Bytes read at once.
    ahead: usize,
    /// Offset at which reading ends.
    limit: u64,
    /// Remaining retries of unreadable sectors.
    pauses: array::IntoIter<Duration, 4>,
    /// Whether any page was unreadable, and reads as zeros.
    unreadable: bool,
}

impl Window {
    pub(super) fn new(file: Arc<dyn File>, start: u64, ahead: usize, limit: u64) -> Self {
        let pauses = READ_PAUSES.into_iter();
        let ahead = ahead.max(PAGE as usize);
        Self { file, base: start, bytes: Vec::new(), ahead, limit, pauses, unreadable: false }
    }

    /// `length` bytes at `offset`, or fewer at the end of the file or at the limit.
    pub(super) fn get(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        if offset < self.base {
            self.discard_before(offset);
        }
        let from = (offset - self.base) as usize;
        let have = self.bytes.len();
        if from + length > have {
            let end = self.base + have as u64;
            let wanted = (from + length - have).max(self.ahead) as u64;
            let wanted = wanted.min(self.limit.saturating_sub(end)) as usize;
            self.bytes.resize(have + wanted, 0);
            let read = self.read_readable(have, end)?;
            self.bytes.truncate(have + read);
        }
        let until = (from + length).min(self.bytes.len());
        Ok(self.bytes.get(from..until).unwrap_or_default())
    }

    /// Fills the buffer from `have` on, up to the file's end. An unreadable page reads as zeros, which are no block: a bad
    /// sector costs its content, and never prevents a start.
    fn read_readable(&mut self, have: usize, offset: u64) -> io::Result<usize> {
        let bytes = &mut self.bytes[have..];
        match read_patiently(&*self.file, bytes, offset, &mut self.pauses) {
            Err(error) if is_unreadable(&error) => {}
            done => return done,
        }
        let mut done = 0;
        for page in bytes.chunks_mut(PAGE as usize) {
            match read_up_to(&*self.file, page, offset + done as u64) {
                Ok(read) if read < page.len() => return Ok(done + read),
                Ok(_) => {}
                Err(error) if is_unreadable(&error) => {
                    page.fill(0);
                    self.unreadable = true;
                }
                Err(error) => return Err(error),
            }
            done += page.len();
        }
        Ok(done)
    }

    /// Drops the bytes before `offset`.
    pub(super) fn discard_before(&mut self, offset: u64) {
        let skip = offset.checked_sub(self.base).and_then(|skip| usize::try_from(skip).ok());
        match skip {
            Some(skip) if skip <= self.bytes.len() => drop(self.bytes.drain(..skip)),
            _ => self.bytes.clear(),
        }
        self.base = offset;
    }

    /// Drops the bytes before `offset` once that is worth the move.
    pub(super) fn compact(&mut self, offset: u64) {
        if offset.saturating_sub(self.base) >= self.ahead as u64 {
            self.discard_before(offset);
        }
    }

    /// Limits later reads to small ones.
    pub(super) fn stop_reading_ahead(&mut self) {
        self.ahead = READ_LESS;
    }

    /// The bytes, with their offset in the file.
    pub(super) fn into_bytes(self) -> (u64, Vec<u8>) {
        (self.base, self.bytes)
    }
}

/// Position of a scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScanPosition {
    pub(super) offset: u64,
    /// Expected sequence at the offset.
    pub(super) sequence: u64,
    /// Checksum of the previous block; `None`: unknown.
    pub(super) chain: Option<u32>,
}

/// Result of a scan step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanItem {
    /// A valid block.
    Block { offset: u64, header: BlockHeader },
    /// Synced bytes that are not valid. The events from `from` up to `until` are missing; none for a sync marker.
    Damage { from: u64, until: u64, offset: u64, next: u64 },
    /// Nothing was synced from this offset on, or the limit is reached.
    End { offset: u64 },
}

/// Iterates over the blocks of a segment.
#[derive(Debug)]
pub(super) struct BlockScanner {
    window: Window,
    id: SegmentId,
    /// From the segment's header, else from the first valid block.
    nonce: Option<u64>,
    /// Offset below which everything is known to be synced.
    synced: u64,
    limit: u64,
    at: ScanPosition,
}

impl BlockScanner {
    pub(super) fn new(
        window: Window,
        id: SegmentId,
        nonce: Option<u64>,
        synced: u64,
        at: ScanPosition,
    ) -> Self {
        let limit = window.limit;
        Self { window, id, nonce, synced, limit, at }
    }

    /// A scan of a whole segment.
    pub(super) fn whole(
        file: &Arc<dyn File>,
        id: SegmentId,
        nonce: Option<u64>,
        first: u64,
        synced: u64,
    ) -> io::Result<Self> {
        let limit = file.length()?;
        let window = Window::new(Arc::clone(file), FIRST_BLOCK, SCAN_AHEAD, limit);
        let start = ScanPosition { offset: FIRST_BLOCK, sequence: first, chain: Some(0) };
        Ok(Self::new(window, id, nonce, synced, start))
    }

    /// Position of the next step.
    pub(super) fn at(&self) -> ScanPosition {
        self.at
    }

    pub(super) fn nonce(&self) -> Option<u64> {
        self.nonce
    }

    pub(super) fn window(&mut self) -> &mut Window {
        &mut self.window
    }

    /// Whether any page was unreadable.
    pub(super) fn has_unreadable(&self) -> bool {
        self.window.unreadable
    }

    pub(super) fn into_window(self) -> Window {
        self.window
    }

    /// The bytes of a block.
    pub(super) fn bytes(&mut self, offset: u64, header: &BlockHeader) -> io::Result<&[u8]> {
        self.window.get(offset, header.length as usize)
    }

    /// Takes the next step.
    pub(super) fn next(&mut self) -> io::Result<ScanItem> {
        let at = self.at;
        if at.offset >= self.limit {
            return Ok(ScanItem::End { offset: at.offset });
        }
        if let Some(header) = block_at(&mut self.window, self.id, self.nonce, at.offset)?
            && header.first == at.sequence
            && at.chain.is_none_or(|chain| chain == header.chain)
        {
            self.advance(at.offset, &header);
            return Ok(ScanItem::Block { offset: at.offset, header });
        }
        self.skip_damage()
    }

    /// Finds the block at which the scan resumes. The bad bytes are damage if they were synced, by [`Self::synced`] or by any
    /// later block; otherwise they are a torn tail.
    fn skip_damage(&mut self) -> io::Result<ScanItem> {
        let bad = self.at;
        let mut resume: Option<(u64, BlockHeader)> = None;
        let mut is_synced = bad.offset < self.synced;
        let mut offset = bad.offset + PAGE;
        // A separate window: the bytes of the first one may be returned to a reader.
        let mut window = Window::new(Arc::clone(&self.window.file), offset, SCAN_AHEAD, self.limit);
        while offset < self.limit && !(is_synced && resume.is_some()) {
            window.compact(offset);
            if let Some(header) = block_at(&mut window, self.id, self.nonce, offset)?
                && header.first >= bad.sequence
            {
                is_synced |= header.synced_before > bad.offset;
                resume.get_or_insert((offset, header));
            }
            offset += PAGE;
        }
        self.window.unreadable |= window.unreadable;
        if !is_synced {
            return Ok(ScanItem::End { offset: bad.offset });
        }
        let (next, until, chain) = match resume {
            Some((offset, header)) => (offset, header.first, None),
            None => (self.limit.min(self.synced), bad.sequence, None),
        };
        self.at = ScanPosition { offset: next, sequence: until, chain };
        Ok(ScanItem::Damage { from: bad.sequence, until, offset: bad.offset, next })
    }

    fn advance(&mut self, offset: u64, header: &BlockHeader) {
        self.nonce = Some(header.nonce);
        self.at = ScanPosition {
            offset: offset + header.padded(),
            sequence: header.end(),
            chain: Some(header.crc),
        };
    }

    /// Finds the next valid block, whatever its sequence.
    pub(super) fn find_block(&mut self) -> io::Result<Option<(u64, BlockHeader)>> {
        let mut offset = self.at.offset;
        while offset < self.limit {
            self.window.compact(offset);
            if let Some(header) = block_at(&mut self.window, self.id, self.nonce, offset)? {
                return Ok(Some((offset, header)));
            }
            offset += PAGE;
        }
        Ok(None)
    }
}

/// The valid block at `offset`, whatever its sequence.
pub(super) fn block_at(
    window: &mut Window,
    id: SegmentId,
    nonce: Option<u64>,
    offset: u64,
) -> io::Result<Option<BlockHeader>> {
    let start = window.get(offset, BLOCK_HEADER)?;
    if !looks_like_block(start) {
        return Ok(None);
    }
    let Some(header) = BlockHeader::decode(id, offset, start) else { return Ok(None) };
    // Checked before the payload is read, so that a foreign length is not followed.
    if nonce.is_some_and(|nonce| nonce != header.nonce) || offset + u64::from(header.length) > window.limit {
        return Ok(None);
    }
    let bytes = window.get(offset, header.length as usize)?;
    Ok(header.verifies(bytes).then_some(header))
}
