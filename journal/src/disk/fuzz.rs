//! Entry points for a fuzzer: scans of arbitrary bytes.

use std::sync::Arc;

use super::files::{File, MemoryFile};
use super::format::{self, BLOCK_HEADER, FIRST_BLOCK, SegmentHeader, SegmentId};
use super::scan::{BlockScanner, ScanItem};
use crate::tuple::tuples;

/// Result of [`scan_bytes`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanSummary {
    /// Events in valid blocks.
    pub events: u64,
    /// Missing events.
    pub damaged: u64,
    /// Steps of the scanner.
    pub steps: u64,
}

/// Scans bytes as if they were a segment.
pub fn scan_bytes(bytes: &[u8]) -> ScanSummary {
    let mut summary = ScanSummary::default();
    let Ok(header) = SegmentHeader::decode(bytes) else { return summary };
    let id = SegmentId { journal: header.journal, number: header.number };
    let file: Arc<dyn File> = Arc::new(MemoryFile(bytes.to_vec()));
    let Ok(mut scanner) = BlockScanner::whole(&file, id, Some(header.nonce), header.first, 0) else {
        return summary;
    };
    loop {
        summary.steps += 1;
        match scanner.next() {
            Ok(ScanItem::Block { offset, header }) => {
                let read = scanner.bytes(offset, &header).unwrap_or_default();
                let rows = read.get(BLOCK_HEADER..).unwrap_or_default();
                let tuples = tuples(rows.get(..header.rows as usize).unwrap_or_default());
                summary.events += tuples.take(header.events as usize).count() as u64;
                debug_assert!(offset >= FIRST_BLOCK && header.keys(read).count() == header.keys as usize);
            }
            Ok(ScanItem::Damage { from, until, .. }) => summary.damaged += until - from,
            Ok(ScanItem::End { .. }) | Err(_) => return summary,
        }
    }
}

/// Scans bytes as [`scan_bytes`] does, with corrected checksums, which a fuzzer hardly ever guesses.
pub fn scan_repaired(mut bytes: Vec<u8>) -> ScanSummary {
    format::repair(&mut bytes);
    scan_bytes(&bytes)
}
