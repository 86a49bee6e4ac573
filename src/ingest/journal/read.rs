//! Reads rows back, and quarantines what is damaged.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::files::File;
use super::format::{ALIGNMENT, BLOCK_HEADER, Block, BlockHeader, FIRST_BLOCK, Salt};
use super::segment::Segment;
use super::store::Store;
use super::{Chunk, JournalError, JournalId, Piece};
use crate::ingest::row;

impl Store {
    /// Reads rows from `from` on, up to `until` (exclusive) or about `max_bytes`; or tells that they are damaged.
    ///
    /// # Errors
    ///
    /// [`JournalError`] if the journal does not hold `from`, or the file cannot be read.
    pub fn read(
        &self,
        journal: JournalId,
        from: u64,
        until: u64,
        max_bytes: usize,
    ) -> Result<Piece, JournalError> {
        let not_held = || JournalError::NotHeld { journal: journal.0, sequence: from };
        let (segment, position) = {
            let state = self.state();
            let segment = state
                .segments
                .iter()
                .find(|segment| {
                    segment.salt.journal == journal && (segment.first..segment.end).contains(&from)
                })
                .cloned();
            let position = state.positions.iter().find(|position| position.0 == journal).copied();
            (segment.ok_or_else(not_held)?, position)
        };
        let until = until.min(segment.end);
        let Some(file) = segment.file.clone() else {
            return Ok(Piece::Damaged { from, until, file: segment.path });
        };
        let reader = Reader { file, segment: &segment };
        let start = match position {
            Some((_, sequence, number, offset)) if sequence <= from && number == segment.salt.number => {
                offset
            }
            _ => FIRST_BLOCK,
        };
        let offset = reader.find(from, start)?;
        self.read_at(&reader, offset, from..until, max_bytes)
    }

    fn read_at(
        &self,
        reader: &Reader<'_>,
        offset: u64,
        wanted: Range<u64>,
        max_bytes: usize,
    ) -> Result<Piece, JournalError> {
        let segment = reader.segment;
        let first = reader.header(offset)?.map_or(ALIGNMENT, |header| u64::from(header.length));
        let length = (max_bytes as u64).max(first).min(segment.used.saturating_sub(offset));
        let buffer = reader.read(offset, length as usize)?;
        let mut chunk = Chunk {
            from: wanted.start,
            until: wanted.start,
            buffer,
            stretches: Vec::new(),
            keys: Vec::new(),
        };
        let (mut at, mut stretches, mut keys) = (0, Vec::new(), Vec::new());
        while chunk.until < wanted.end {
            let rest = chunk.buffer.get(at..).unwrap_or_default();
            let Some(block) = Block::read(rest, segment.salt, offset + at as u64) else { break };
            let header = block.header;
            // What is damaged in between ends a chunk.
            if header.first > chunk.until {
                break;
            }
            let rows = at + BLOCK_HEADER;
            if header.end() > chunk.until {
                let places = chunk.until - header.first..wanted.end.min(header.end()) - header.first;
                let part = part(block.rows, places.clone(), u64::from(header.events));
                stretches.push(rows + part.start..rows + part.end);
                let sequences = header.first + places.start..header.first + places.end;
                keys.extend(block.keys().filter(|(sequence, _)| sequences.contains(sequence)));
                chunk.until = sequences.end;
                if sequences.end < header.end() {
                    break;
                }
            }
            at += header.length as usize;
        }
        if chunk.until == chunk.from {
            return self.damaged(reader, offset, wanted);
        }
        self.remember(segment.salt, chunk.until, offset + at as u64);
        (chunk.stretches, chunk.keys) = (stretches, keys);
        Ok(Piece::Rows(chunk))
    }

    fn remember(&self, salt: Salt, sequence: u64, offset: u64) {
        let mut state = self.state();
        state.positions.retain(|position| position.0 != salt.journal);
        state.positions.push((salt.journal, sequence, salt.number, offset));
    }

    /// The block at `offset`, where `wanted` should begin, is damaged: everything up to the next good one is.
    fn damaged(&self, reader: &Reader<'_>, offset: u64, wanted: Range<u64>) -> Result<Piece, JournalError> {
        let segment = reader.segment;
        let next = reader.next_good(offset + ALIGNMENT)?;
        let (end, next_sequence) =
            next.map_or((segment.used, segment.end), |(at, header)| (at, header.first));
        let until = next_sequence.min(wanted.end).max(wanted.start + 1);
        let file = self.quarantine(reader, offset..end)?;
        tracing::error!(
            journal = %segment.salt.journal.0,
            from = wanted.start,
            until,
            file = %file.display(),
            "a part of the journal is damaged; its events are lost, and it is kept aside"
        );
        Ok(Piece::Damaged { from: wanted.start, until, file })
    }

    /// Keeps a copy of damaged bytes, for whoever wants to look into them.
    fn quarantine(&self, reader: &Reader<'_>, bytes: Range<u64>) -> Result<PathBuf, JournalError> {
        let salt = reader.segment.salt;
        let dir = self.settings.dir.join("quarantine");
        let path = dir.join(format!("{}-{:08}-{}.bin", salt.journal.0, salt.number, bytes.start));
        // Whoever only looks changes nothing.
        if self.lock.is_none() {
            return Ok(path);
        }
        let io = |source| JournalError::Io { path: path.clone(), source };
        self.files.make_dir(&dir).map_err(io)?;
        if self.files.list(&dir).map_err(io)?.contains(&path) {
            return Ok(path);
        }
        let content = reader.read(bytes.start, (bytes.end - bytes.start) as usize)?;
        self.quarantined.fetch_add(content.len() as u64, Ordering::Relaxed);
        let copied =
            self.files.create(&path).and_then(|copy| copy.write_at(&content, 0).and_then(|()| copy.sync()));
        if let Err(error) = copied {
            tracing::warn!(error = error.to_string(), "damaged bytes of the journal could not be kept aside");
        }
        Ok(path)
    }
}

/// Reads one segment.
pub(super) struct Reader<'a> {
    pub(super) file: Arc<dyn File>,
    pub(super) segment: &'a Segment,
}

impl Reader<'_> {
    fn io(&self, source: std::io::Error) -> JournalError {
        JournalError::Io { path: self.segment.path.clone(), source }
    }

    /// Bytes from `offset` on; fewer if the file ends.
    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, JournalError> {
        let mut buffer = vec![0; length];
        let read = self.file.read_at(&mut buffer, offset).map_err(|error| self.io(error))?;
        buffer.truncate(read);
        Ok(buffer)
    }

    /// What stands at `offset` and looks like a block's header.
    fn header(&self, offset: u64) -> Result<Option<BlockHeader>, JournalError> {
        let bytes = self.read(offset, BLOCK_HEADER)?;
        let header = BlockHeader::peek(&bytes);
        Ok(header.filter(|header| offset + u64::from(header.length) <= self.segment.bytes))
    }

    /// The good block at `offset`, if there is one.
    pub(super) fn good(&self, offset: u64) -> Result<Option<BlockHeader>, JournalError> {
        let Some(header) = self.header(offset)? else { return Ok(None) };
        let bytes = self.read(offset, header.length as usize)?;
        Ok(Block::read(&bytes, self.segment.salt, offset).map(|block| block.header))
    }

    /// The first good block at `offset` or behind it, among what is synced.
    fn next_good(&self, mut offset: u64) -> Result<Option<(u64, BlockHeader)>, JournalError> {
        while offset < self.segment.used {
            if let Some(header) = self.good(offset)? {
                return Ok(Some((offset, header)));
            }
            offset += ALIGNMENT;
        }
        Ok(None)
    }

    /// Where the block stands that holds `sequence`, or the damage in its place.
    fn find(&self, sequence: u64, start: u64) -> Result<u64, JournalError> {
        let mut offset = start;
        while offset < self.segment.used {
            // Only the headers are looked at here; those that lead astray are found out when the block is read.
            let Some(header) = self.header(offset)? else {
                let Some((next, header)) = self.next_good(offset + ALIGNMENT)? else { return Ok(offset) };
                if header.first > sequence {
                    return Ok(offset);
                }
                offset = next;
                continue;
            };
            if header.end() > sequence || header.first > sequence {
                return Ok(offset);
            }
            offset += u64::from(header.length);
        }
        Ok(start)
    }
}

/// Where the rows at `places` of a block stand in its rows.
fn part(rows: &[u8], places: Range<u64>, events: u64) -> Range<usize> {
    if places == (0..events) {
        return 0..rows.len();
    }
    let (mut start, mut end) = (rows.len(), 0);
    let mut at = 0;
    for (place, tuple) in row::tuples(rows).enumerate() {
        let next = at + tuple.bytes().len();
        if places.contains(&(place as u64)) {
            start = start.min(at);
            end = next;
        }
        at = next;
    }
    start.min(end)..end
}
