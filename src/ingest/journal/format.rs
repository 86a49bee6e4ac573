//! The bytes on disk: headers of segments and of blocks. The format is described at the top of the module above.

use uuid::Uuid;

use super::{JournalId, Key};
use crate::ingest::row;

/// Blocks begin at multiples of this, so that no write touches a sector or a page that holds what was synced before.
pub(super) const ALIGNMENT: u64 = 4096;
/// A segment's header takes one unit.
pub(super) const FIRST_BLOCK: u64 = ALIGNMENT;
const VERSION: u32 = 1;
const SEGMENT_MAGIC: &[u8; 8] = b"TIDEGATE";
const BLOCK_MAGIC: &[u8; 4] = b"TGB1";
/// Where a segment header's checksum stands: at the end of its unit.
const SEGMENT_CRC_AT: usize = ALIGNMENT as usize - 4;
/// The length of a block's header, with its checksum.
pub(super) const BLOCK_HEADER: usize = 48;
const BLOCK_CRC_AT: usize = BLOCK_HEADER - 4;
const KEY_BYTES: usize = 4 + 16;

/// What distinguishes a segment from all others; part of every checksum, so that what a recycled file held before is
/// never taken for valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Salt {
    pub(super) journal: JournalId,
    pub(super) number: u32,
}

impl Salt {
    fn hasher(self) -> crc32fast::Hasher {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.journal.0.as_bytes());
        hasher.update(&self.number.to_le_bytes());
        hasher
    }
}

/// A segment's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) salt: Salt,
    /// The sequence of its first event.
    pub(super) first: u64,
    /// Up to where the segment before it was synced.
    pub(super) previous_end: u64,
    /// Unix time in milliseconds.
    pub(super) created_ms: u64,
}

/// What a segment's first unit turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadHeader {
    Valid(SegmentHeader),
    /// Written by a newer version.
    Newer(u32),
    /// Its rows have other columns than ours.
    OtherColumns(String),
    Damaged,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ALIGNMENT as usize);
        bytes.extend_from_slice(SEGMENT_MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(self.salt.journal.0.as_bytes());
        bytes.extend_from_slice(&self.salt.number.to_le_bytes());
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&self.previous_end.to_le_bytes());
        bytes.extend_from_slice(&self.created_ms.to_le_bytes());
        bytes.extend_from_slice(&(row::COLUMNS.len() as u16).to_le_bytes());
        bytes.extend_from_slice(row::COLUMNS.as_bytes());
        bytes.resize(SEGMENT_CRC_AT, 0);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    pub(super) fn read(bytes: &[u8]) -> ReadHeader {
        match Self::parse(bytes) {
            Some(read) => read,
            None => ReadHeader::Damaged,
        }
    }

    fn parse(bytes: &[u8]) -> Option<ReadHeader> {
        let body = bytes.get(..SEGMENT_CRC_AT)?;
        let mut fields = Fields(body);
        if fields.take(8)? != SEGMENT_MAGIC
            || crc32fast::hash(body) != Fields(bytes.get(SEGMENT_CRC_AT..)?).u32()?
        {
            return None;
        }
        let version = fields.u32()?;
        if version > VERSION {
            return Some(ReadHeader::Newer(version));
        }
        let journal = JournalId(Uuid::from_slice(fields.take(16)?).ok()?);
        let number = fields.u32()?;
        let header = Self {
            salt: Salt { journal, number },
            first: fields.u64()?,
            previous_end: fields.u64()?,
            created_ms: fields.u64()?,
        };
        let columns = fields.u16()?;
        let columns = fields.take(usize::from(columns))?;
        if columns != row::COLUMNS.as_bytes() {
            return Some(ReadHeader::OtherColumns(String::from_utf8_lossy(columns).into_owned()));
        }
        Some(ReadHeader::Valid(header))
    }
}

/// A block's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockHeader {
    /// With header, keys and padding.
    pub(super) length: u32,
    pub(super) rows: u32,
    pub(super) events: u32,
    pub(super) keys: u32,
    pub(super) first: u64,
    /// Rises with each write, also with one that failed: what a failed write left behind is older than what follows.
    pub(super) write: u64,
    /// Everything before this offset had been synced when the block was written.
    pub(super) synced_before: u64,
}

impl BlockHeader {
    /// The sequence after its last event.
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.events)
    }

    /// The length of a block with so much in it.
    pub(super) fn length_of(rows: usize, keys: usize) -> usize {
        (BLOCK_HEADER + rows + keys * KEY_BYTES).next_multiple_of(ALIGNMENT as usize)
    }

    fn encode(&self) -> [u8; BLOCK_CRC_AT] {
        let mut bytes = [0; BLOCK_CRC_AT];
        let fields: [&[u8]; 8] = [
            BLOCK_MAGIC,
            &self.length.to_le_bytes(),
            &self.rows.to_le_bytes(),
            &self.events.to_le_bytes(),
            &self.keys.to_le_bytes(),
            &self.first.to_le_bytes(),
            &self.write.to_le_bytes(),
            &self.synced_before.to_le_bytes(),
        ];
        let mut at = 0;
        for field in fields {
            if let Some(place) = bytes.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
            at += field.len();
        }
        bytes
    }

    /// Reads a header without looking at its checksum; its lengths fit one another.
    pub(super) fn peek(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.take(4)? != BLOCK_MAGIC {
            return None;
        }
        let header = Self {
            length: fields.u32()?,
            rows: fields.u32()?,
            events: fields.u32()?,
            keys: fields.u32()?,
            first: fields.u64()?,
            write: fields.u64()?,
            synced_before: fields.u64()?,
        };
        let fits = header.keys <= header.events
            && header.length as usize == Self::length_of(header.rows as usize, header.keys as usize);
        fits.then_some(header)
    }
}

/// A block that was read and found valid.
#[derive(Debug, Clone)]
pub(super) struct Block<'a> {
    pub(super) header: BlockHeader,
    pub(super) rows: &'a [u8],
    keys: &'a [u8],
}

impl<'a> Block<'a> {
    /// The block that stands at the beginning of `bytes`, which begin at `offset` of the segment; `None` if there is none
    /// whose checksum is right.
    pub(super) fn read(bytes: &'a [u8], salt: Salt, offset: u64) -> Option<Self> {
        let header = BlockHeader::peek(bytes)?;
        let (head, rest) = bytes.get(..header.length as usize)?.split_at_checked(BLOCK_HEADER)?;
        let (rows, rest) = rest.split_at_checked(header.rows as usize)?;
        let keys = rest.get(..header.keys as usize * KEY_BYTES)?;
        let stored = Fields(head.get(BLOCK_CRC_AT..)?).u32()?;
        let head = head.get(..BLOCK_CRC_AT)?;
        (stored == checksum(salt, offset, head, &[rows, keys])).then_some(Self { header, rows, keys })
    }

    /// The keys of its events, by sequence.
    pub(super) fn keys(&self) -> impl Iterator<Item = (u64, Key)> {
        let first = self.header.first;
        self.keys.chunks_exact(KEY_BYTES).filter_map(move |bytes| {
            let mut fields = Fields(bytes);
            Some((first + u64::from(fields.u32()?), fields.take(16)?.try_into().ok()?))
        })
    }
}

fn checksum(salt: Salt, offset: u64, head: &[u8], parts: &[&[u8]]) -> u32 {
    let mut hasher = salt.hasher();
    hasher.update(&offset.to_le_bytes());
    hasher.update(head);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Builds a block at the end of a buffer: begin, push rows, then finish.
#[derive(Debug)]
pub(super) struct BlockBuilder {
    start: usize,
    events: u32,
    keys: Vec<u8>,
    key_count: u32,
}

impl BlockBuilder {
    pub(super) fn begin(out: &mut Vec<u8>) -> Self {
        let start = out.len();
        out.resize(start + BLOCK_HEADER, 0);
        Self { start, events: 0, keys: Vec::new(), key_count: 0 }
    }

    /// Adds the rows of `events` events, of which some have keys.
    pub(super) fn push(&mut self, out: &mut Vec<u8>, rows: &[u8], events: u32, keys: &[(u32, Key)]) {
        for (index, key) in keys {
            self.keys.extend_from_slice(&(self.events + index).to_le_bytes());
            self.keys.extend_from_slice(key);
            self.key_count += 1;
        }
        out.extend_from_slice(rows);
        self.events += events;
    }

    pub(super) fn start(&self) -> usize {
        self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Bytes that it will take with `more` rows.
    pub(super) fn length_with(&self, out: &[u8], more: usize) -> usize {
        out.len() - self.start + more + self.keys.len()
    }

    pub(super) fn finish(
        self,
        out: &mut Vec<u8>,
        salt: Salt,
        offset: u64,
        first: u64,
        write: u64,
        synced_before: u64,
    ) -> u32 {
        let rows = out.len() - self.start - BLOCK_HEADER;
        out.extend_from_slice(&self.keys);
        let length = BlockHeader::length_of(rows, self.key_count as usize);
        let header = BlockHeader {
            length: length as u32,
            rows: rows as u32,
            events: self.events,
            keys: self.key_count,
            first,
            write,
            synced_before,
        };
        let head = header.encode();
        let (before, payload) = out.split_at_mut(self.start + BLOCK_HEADER);
        let crc = checksum(salt, offset, &head, &[payload]).to_le_bytes();
        if let Some((place, crc_place)) =
            before.get_mut(self.start..).and_then(|place| place.split_at_mut_checked(BLOCK_CRC_AT))
        {
            place.copy_from_slice(&head);
            crc_place.copy_from_slice(&crc);
        }
        out.resize(self.start + length, 0);
        self.events
    }
}

/// Reads little-endian fields one by one.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(field)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}
