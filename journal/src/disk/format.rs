//! Encoding and validation of segment and block headers.
//!
//! The [module](super) documents the layout. All numbers are little-endian.

use uuid::Uuid;

use super::JournalId;
use crate::Key;

/// Alignment of blocks: no write touches a page or sector that holds synced bytes.
pub const PAGE: u64 = 4096;
/// Offset of a segment's first block.
pub(super) const FIRST_BLOCK: u64 = PAGE;
/// The format version that is written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"TIDEGATE";
const BLOCK_MAGIC: [u8; 4] = *b"tgBk";
/// Size of a block's header.
pub(super) const BLOCK_HEADER: usize = 64;
/// Size of a key in a block: its event's index, then the key.
pub(super) const KEY_BYTES: usize = 4 + 16;
/// Longest column list of a header.
const MAX_COLUMNS: usize = 2048;
const COLUMNS_AT: usize = 80;

/// Rounds up to a multiple of [`PAGE`].
pub(super) fn pad(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE) * PAGE
}

/// Reads consecutive numbers; zeros past the end, which no checksum accepts.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_at_checked(N).unwrap_or_default();
        self.0 = rest;
        head.try_into().unwrap_or([0; N])
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Header of a segment, its first page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) journal: JournalId,
    pub(super) number: u64,
    /// Random per segment, repeated by its blocks. A client could learn a journal's id and guess an offset; without the nonce
    /// an event's body could imitate a block.
    pub(super) nonce: u64,
    /// Sequence of the segment's first event.
    pub(super) first: u64,
    /// End of the previous segment, all of which is synced.
    pub(super) previous_synced: u64,
    /// When the journal was created.
    pub(super) created_at_us: i64,
    /// The columns that the rows fill.
    pub(super) columns: String,
}

/// The first page is no valid header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged,
    /// Written by a later version of the program.
    Newer(u32),
}

impl SegmentHeader {
    /// Encodes the first page.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE as usize);
        page.extend_from_slice(&SEGMENT_MAGIC);
        page.extend_from_slice(&[0; 4]);
        page.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        page.extend_from_slice(self.journal.0.as_bytes());
        page.extend_from_slice(&self.number.to_le_bytes());
        page.extend_from_slice(&self.nonce.to_le_bytes());
        page.extend_from_slice(&self.first.to_le_bytes());
        page.extend_from_slice(&self.previous_synced.to_le_bytes());
        page.extend_from_slice(&self.created_at_us.to_le_bytes());
        let columns = &self.columns.as_bytes()[..self.columns.len().min(MAX_COLUMNS)];
        page.extend_from_slice(&(columns.len() as u64).to_le_bytes());
        debug_assert_eq!(page.len(), COLUMNS_AT);
        page.extend_from_slice(columns);
        page.resize(PAGE as usize, 0);
        let crc = crc32fast::hash(&page[12..]);
        page[8..12].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// Decodes the first page. Every version keeps the offsets of magic, checksum and version, so that a newer header differs
    /// from a damaged one.
    pub(super) fn decode(page: &[u8]) -> Result<Self, HeaderError> {
        let page = page.get(..PAGE as usize).ok_or(HeaderError::Damaged)?;
        let mut fields = Fields(page);
        if fields.take() != SEGMENT_MAGIC || fields.u32() != crc32fast::hash(&page[12..]) {
            return Err(HeaderError::Damaged);
        }
        let version = fields.u32();
        if version != FORMAT_VERSION {
            return Err(HeaderError::Newer(version));
        }
        let journal = JournalId(Uuid::from_bytes(fields.take()));
        let (number, nonce, first, previous_synced) =
            (fields.u64(), fields.u64(), fields.u64(), fields.u64());
        let created_at_us = i64::from_le_bytes(fields.take());
        let length = usize::try_from(fields.u64()).unwrap_or(usize::MAX);
        let columns = fields.0.get(..length).and_then(|bytes| str::from_utf8(bytes).ok());
        let columns = columns.ok_or(HeaderError::Damaged)?.to_owned();
        Ok(Self { journal, number, nonce, first, previous_synced, created_at_us, columns })
    }
}

/// Identity of a segment. The checksums of its blocks cover it, so remains of another segment in a recycled file are
/// invalid, as are copied blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentId {
    pub(super) journal: JournalId,
    pub(super) number: u64,
}

impl SegmentId {
    fn crc(self, offset: u64, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.journal.0.as_bytes());
        hasher.update(&self.number.to_le_bytes());
        hasher.update(&offset.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// Header of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockHeader {
    /// Checksum of this header, repeated by the next block.
    pub(super) crc: u32,
    payload_crc: u32,
    /// Length of header, rows and keys, without padding.
    pub(super) length: u32,
    pub(super) rows: u32,
    pub(super) events: u32,
    pub(super) keys: u32,
    /// Checksum of the previous block; 0 for the first. Remains of an erased group follow no block, and are invalid.
    pub(super) chain: u32,
    pub(super) first: u64,
    /// Offset up to which the segment was synced when this block was written.
    pub(super) synced_before: u64,
    pub(super) nonce: u64,
}

impl BlockHeader {
    /// One past the last sequence.
    pub(super) fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.events))
    }

    /// Size on disk.
    pub(super) fn padded(&self) -> u64 {
        pad(u64::from(self.length))
    }

    /// Decodes the header of the block at `offset`, which begins `bytes`. Does not check the payload.
    pub(super) fn decode(id: SegmentId, offset: u64, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..BLOCK_HEADER)?;
        let mut fields = Fields(bytes);
        if fields.take() != BLOCK_MAGIC {
            return None;
        }
        let crc = fields.u32();
        if crc != id.crc(offset, &bytes[8..]) {
            return None;
        }
        let header = Self {
            crc,
            payload_crc: fields.u32(),
            length: fields.u32(),
            rows: fields.u32(),
            events: fields.u32(),
            keys: fields.u32(),
            chain: fields.u32(),
            first: fields.u64(),
            synced_before: fields.u64(),
            nonce: fields.u64(),
        };
        let length = BLOCK_HEADER as u64 + u64::from(header.rows) + u64::from(header.keys) * KEY_BYTES as u64;
        (length == u64::from(header.length) && header.synced_before <= offset).then_some(header)
    }

    /// Whether the payload in `bytes` matches its checksum.
    pub(super) fn verifies(&self, bytes: &[u8]) -> bool {
        bytes
            .get(BLOCK_HEADER..self.length as usize)
            .is_some_and(|payload| crc32fast::hash(payload) == self.payload_crc)
    }

    /// The block's keys, each with the sequence of its event.
    pub(super) fn keys<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = (u64, Key)> + use<'a> {
        let first = self.first;
        let range = BLOCK_HEADER + self.rows as usize..self.length as usize;
        bytes.get(range).unwrap_or_default().chunks_exact(KEY_BYTES).map(move |entry| {
            let mut fields = Fields(entry);
            (first.saturating_add(u64::from(fields.u32())), fields.take())
        })
    }
}

/// Encodes consecutive blocks for one write.
#[derive(Debug)]
pub(super) struct BlockWriter {
    pub(super) id: SegmentId,
    pub(super) nonce: u64,
    pub(super) synced_before: u64,
    pub(super) chain: u32,
    /// Offset of the next block in the segment.
    pub(super) offset: u64,
}

/// Sizes of a block's content.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BlockContent {
    pub(super) rows: u32,
    pub(super) events: u32,
    pub(super) keys: u32,
}

impl BlockContent {
    pub(super) fn length(self) -> u64 {
        BLOCK_HEADER as u64 + u64::from(self.rows) + u64::from(self.keys) * KEY_BYTES as u64
    }
}

impl BlockWriter {
    /// Appends a block to `out`; `fill` writes its payload.
    pub(super) fn put(
        &mut self,
        out: &mut Vec<u8>,
        first: u64,
        content: BlockContent,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = out.len();
        out.resize(start + BLOCK_HEADER, 0);
        fill(out);
        let length = out.len() - start;
        debug_assert_eq!(length as u64, content.length());
        let payload_crc = crc32fast::hash(&out[start + BLOCK_HEADER..]);
        let mut header = Vec::with_capacity(BLOCK_HEADER);
        header.extend_from_slice(&payload_crc.to_le_bytes());
        for number in [length as u32, content.rows, content.events, content.keys, self.chain] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        for number in [first, self.synced_before, self.nonce] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.resize(BLOCK_HEADER - 8, 0);
        self.chain = self.id.crc(self.offset, &header);
        out[start..start + 4].copy_from_slice(&BLOCK_MAGIC);
        out[start + 4..start + 8].copy_from_slice(&self.chain.to_le_bytes());
        out[start + 8..start + BLOCK_HEADER].copy_from_slice(&header);
        let padded = pad(length as u64);
        out.resize(start + padded as usize, 0);
        self.offset += padded;
    }
}

/// Whether a page could begin a block.
pub(super) fn looks_like_block(page: &[u8]) -> bool {
    page.starts_with(&BLOCK_MAGIC)
}

/// Corrects the magics and checksums of a segment's header and of each page, for fuzzing.
pub(super) fn repair(bytes: &mut [u8]) {
    let Some(page) = bytes.get_mut(..PAGE as usize) else { return };
    page[..8].copy_from_slice(&SEGMENT_MAGIC);
    page[12..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    page[73..80].fill(0);
    page[COLUMNS_AT..COLUMNS_AT + 256].fill(b'c');
    let crc = crc32fast::hash(&page[12..]);
    page[8..12].copy_from_slice(&crc.to_le_bytes());
    let Ok(header) = SegmentHeader::decode(page) else { return };
    let id = SegmentId { journal: header.journal, number: header.number };
    for offset in (FIRST_BLOCK as usize..bytes.len()).step_by(PAGE as usize) {
        let Some(block) = bytes.get_mut(offset..).filter(|block| block.len() >= BLOCK_HEADER) else { return };
        // The length follows from rows and keys; a block with another length is invalid.
        let (rows, keys) = (Fields(&block[16..]).u32(), Fields(&block[24..]).u32());
        let content = BlockContent { rows: rows % (1 << 16), events: 0, keys: keys % 64 };
        let length = content.length();
        block[12..16].copy_from_slice(&(length as u32).to_le_bytes());
        block[16..20].copy_from_slice(&content.rows.to_le_bytes());
        block[24..28].copy_from_slice(&content.keys.to_le_bytes());
        block[48..56].copy_from_slice(&header.nonce.to_le_bytes());
        if let Some(payload) = block.get(BLOCK_HEADER..length as usize) {
            let crc = crc32fast::hash(payload);
            block[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        block[..4].copy_from_slice(&BLOCK_MAGIC);
        let crc = id.crc(offset as u64, &block[8..BLOCK_HEADER]);
        block[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}
