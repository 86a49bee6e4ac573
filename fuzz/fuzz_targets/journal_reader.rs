//! The journal's reader on whatever bytes: no panic, no endless walk, no events from nowhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::ingest::journal::{PAGE, scan_bytes, scan_repaired};

/// What a header or a block begins with.
const HEAD: usize = 128;

fuzz_target!(|bytes: &[u8]| {
    // A page for each few bytes: what decides stands at its beginning, and a fuzzer hardly ever grows its input by pages.
    let mut image = vec![0; bytes.len().div_ceil(HEAD) * PAGE as usize];
    for (page, head) in image.chunks_mut(PAGE as usize).zip(bytes.chunks(HEAD)) {
        page[..head.len()].copy_from_slice(head);
    }
    for bytes in [bytes.to_vec(), image] {
        // Each step goes on by a page at least.
        let most = bytes.len() as u64 / PAGE + 2;
        assert!(scan_bytes(&bytes).steps <= most);
        // The same with checksums made right, so that what lies behind them is reached.
        assert!(scan_repaired(bytes).steps <= most);
    }
});
