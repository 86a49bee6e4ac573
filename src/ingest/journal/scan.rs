//! Walks a segment's blocks, and tells damage from a torn tail.
//!
//! The only code that decides what a block is: recovery, readers and the fuzzer all come through here.

use std::array;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::files::{File, READ_PAUSES, is_unreadable, read_patiently, read_up_to};
use super::format::{BLOCK_HEADER, BlockHeader, FIRST_BLOCK, PAGE, Place, looks_like_block};

/// What a scan reads at once.
pub(super) const SCAN_AHEAD: usize = 1 << 20;
const READ_LESS: usize = 64 << 10;

/// A chunk of a segment in memory, read ahead in large pieces.
#[derive(Debug)]
pub(super) struct Window {
    file: Arc<dyn File>,
    /// Where the chunk begins in the file.
    base: u64,
    bytes: Vec<u8>,
    /// How much is read at once.
    ahead: usize,
    /// Nothing is read from here on.
    limit: u64,
    /// What is left of the patience with a disk that cannot read.
    pauses: array::IntoIter<Duration, 4>,
    /// A page reads as zeros since the disk could not read it.
    unread: bool,
}

impl Window {
    pub(super) fn new(file: Arc<dyn File>, start: u64, ahead: usize, limit: u64) -> Self {
        let pauses = READ_PAUSES.into_iter();
        let ahead = ahead.max(PAGE as usize);
        Self { file, base: start, bytes: Vec::new(), ahead, limit, pauses, unread: false }
    }

    /// `length` bytes at `offset`; fewer where the file or the limit ends.
    pub(super) fn get(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        if offset < self.base {
            self.forget_before(offset);
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

    /// Fills the buffer from `have` on, up to the file's end. A page that the disk cannot give, however often it is asked,
    /// reads as zeros, which are no block: one bad sector costs what lies in it, and never keeps a service from starting.
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
                    self.unread = true;
                }
                Err(error) => return Err(error),
            }
            done += page.len();
        }
        Ok(done)
    }

    /// Lets go of what lies before `offset`.
    pub(super) fn forget_before(&mut self, offset: u64) {
        let skip = offset.checked_sub(self.base).and_then(|skip| usize::try_from(skip).ok());
        match skip {
            Some(skip) if skip <= self.bytes.len() => drop(self.bytes.drain(..skip)),
            _ => self.bytes.clear(),
        }
        self.base = offset;
    }

    /// Lets go of what lies before `offset` once that is worth the move.
    pub(super) fn tidy(&mut self, offset: u64) {
        if offset.saturating_sub(self.base) >= self.ahead as u64 {
            self.forget_before(offset);
        }
    }

    /// Reads no more than needed from now on.
    pub(super) fn read_less(&mut self) {
        self.ahead = READ_LESS;
    }

    /// The bytes in memory and where they begin in the file.
    pub(super) fn into_bytes(self) -> (u64, Vec<u8>) {
        (self.base, self.bytes)
    }
}

/// Where a walk begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) offset: u64,
    /// The sequence expected there.
    pub(super) sequence: u64,
    /// The checksum of the block before; `None` if that is not known.
    pub(super) chain: Option<u32>,
}

/// What a walk meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A block that is as it was written.
    Block { offset: u64, header: BlockHeader },
    /// Bytes that were synced and are not what was written. The events from `from` up to `until` are missing; none, if it
    /// was only a marker.
    Damage { from: u64, until: u64, offset: u64, next: u64 },
    /// From this offset on there is nothing that was ever synced, or the limit.
    End { offset: u64 },
}

/// Walks the blocks of one segment.
#[derive(Debug)]
pub(super) struct Walk {
    window: Window,
    place: Place,
    /// Known from the segment's header, else taken from the first block that is valid.
    nonce: Option<u64>,
    /// All below this offset is known to be synced.
    synced: u64,
    limit: u64,
    at: Start,
}

impl Walk {
    pub(super) fn new(window: Window, place: Place, nonce: Option<u64>, synced: u64, at: Start) -> Self {
        let limit = window.limit;
        Self { window, place, nonce, synced, limit, at }
    }

    /// A walk over a whole segment, of which all below `synced` is known to be synced.
    pub(super) fn whole(
        file: &Arc<dyn File>,
        place: Place,
        nonce: Option<u64>,
        first: u64,
        synced: u64,
    ) -> io::Result<Self> {
        let limit = file.length()?;
        let window = Window::new(Arc::clone(file), FIRST_BLOCK, SCAN_AHEAD, limit);
        let start = Start { offset: FIRST_BLOCK, sequence: first, chain: Some(0) };
        Ok(Self::new(window, place, nonce, synced, start))
    }

    /// Where the next step looks.
    pub(super) fn at(&self) -> Start {
        self.at
    }

    pub(super) fn nonce(&self) -> Option<u64> {
        self.nonce
    }

    pub(super) fn window(&mut self) -> &mut Window {
        &mut self.window
    }

    /// Whether a page was met that the disk could not read.
    pub(super) fn has_unread(&self) -> bool {
        self.window.unread
    }

    pub(super) fn into_window(self) -> Window {
        self.window
    }

    /// The bytes of a block that was found.
    pub(super) fn bytes(&mut self, offset: u64, header: &BlockHeader) -> io::Result<&[u8]> {
        self.window.get(offset, header.length as usize)
    }

    /// The next step.
    pub(super) fn next(&mut self) -> io::Result<Found> {
        let at = self.at;
        if at.offset >= self.limit {
            return Ok(Found::End { offset: at.offset });
        }
        if let Some(header) = block_at(&mut self.window, self.place, self.nonce, at.offset)?
            && header.first == at.sequence
            && at.chain.is_none_or(|chain| chain == header.chain)
        {
            self.pass(at.offset, &header);
            return Ok(Found::Block { offset: at.offset, header });
        }
        self.skip_damage()
    }

    /// Looks for the block at which reading resumes. The bad bytes are damage if they were synced, as [`Walk::synced`]
    /// or any later block says; else they are the remains of writes that no sync covered.
    fn skip_damage(&mut self) -> io::Result<Found> {
        let bad = self.at;
        let mut resume: Option<(u64, BlockHeader)> = None;
        let mut testified = bad.offset < self.synced;
        let mut offset = bad.offset + PAGE;
        // A window of its own: the bytes in the other one may be on their way to a reader.
        let mut window = Window::new(Arc::clone(&self.window.file), offset, SCAN_AHEAD, self.limit);
        while offset < self.limit && !(testified && resume.is_some()) {
            window.tidy(offset);
            if let Some(header) = block_at(&mut window, self.place, self.nonce, offset)?
                && header.first >= bad.sequence
            {
                testified |= header.synced_before > bad.offset;
                resume.get_or_insert((offset, header));
            }
            offset += PAGE;
        }
        self.window.unread |= window.unread;
        if !testified {
            return Ok(Found::End { offset: bad.offset });
        }
        let (next, until, chain) = match resume {
            Some((offset, header)) => (offset, header.first, None),
            None => (self.limit.min(self.synced), bad.sequence, None),
        };
        self.at = Start { offset: next, sequence: until, chain };
        Ok(Found::Damage { from: bad.sequence, until, offset: bad.offset, next })
    }

    fn pass(&mut self, offset: u64, header: &BlockHeader) {
        self.nonce = Some(header.nonce);
        self.at = Start { offset: offset + header.padded(), sequence: header.end(), chain: Some(header.crc) };
    }

    /// The first valid block from here on, whatever its sequence.
    pub(super) fn find(&mut self) -> io::Result<Option<(u64, BlockHeader)>> {
        let mut offset = self.at.offset;
        while offset < self.limit {
            self.window.tidy(offset);
            if let Some(header) = block_at(&mut self.window, self.place, self.nonce, offset)? {
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
    place: Place,
    nonce: Option<u64>,
    offset: u64,
) -> io::Result<Option<BlockHeader>> {
    let start = window.get(offset, BLOCK_HEADER)?;
    if !looks_like_block(start) {
        return Ok(None);
    }
    let Some(header) = BlockHeader::decode(place, offset, start) else { return Ok(None) };
    // Checked before the payload is read, so that no length is followed that was not written by this journal.
    if nonce.is_some_and(|nonce| nonce != header.nonce) || offset + u64::from(header.length) > window.limit {
        return Ok(None);
    }
    let bytes = window.get(offset, header.length as usize)?;
    Ok(header.verifies(bytes).then_some(header))
}
