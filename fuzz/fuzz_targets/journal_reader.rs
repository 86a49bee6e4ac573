//! The journal's reader on arbitrary bytes: no panic, no endless loop, no invented events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_journal::disk::PAGE;
use tidegate_journal::disk::fuzz::{scan_bytes, scan_repaired};

/// Bytes at the beginning of a header and of a block.
const HEAD: usize = 128;

fuzz_target!(|bytes: &[u8]| {
    // A page for each few bytes: the relevant fields are at its beginning, and a fuzzer rarely grows its input by whole pages.
    let mut image = vec![0; bytes.len().div_ceil(HEAD) * PAGE as usize];
    for (page, head) in image.chunks_mut(PAGE as usize).zip(bytes.chunks(HEAD)) {
        page[..head.len()].copy_from_slice(head);
    }
    for bytes in [bytes.to_vec(), image] {
        // Each step advances by at least a page.
        let most = bytes.len() as u64 / PAGE + 2;
        assert!(scan_bytes(&bytes).steps <= most);
        // Again with correct checksums, so that the code behind them is reached.
        assert!(scan_repaired(bytes).steps <= most);
    }
});
