//! The journal's reader on whatever bytes: no panic, no endless walk, no events from nowhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::ingest::journal::{PAGE, scan_bytes, scan_repaired};

fuzz_target!(|bytes: &[u8]| {
    let scan = scan_bytes(bytes);
    // Each step goes on by a page at least.
    assert!(scan.steps <= bytes.len() as u64 / PAGE + 2);
    // The same with checksums made right, so that what lies behind them is reached.
    let scan = scan_repaired(bytes.to_vec());
    assert!(scan.steps <= bytes.len() as u64 / PAGE + 2);
});
