//! Checks of the disk: the duration of a sync, and free space.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Finding, Grade, finding};
use crate::config::Config;
use crate::ingest::journal::disk;

const SYNCS: usize = 200;
/// No disk syncs faster, except one with a battery-backed cache.
const TOO_FAST: Duration = Duration::from_micros(15);
/// Above it, a lone request waits noticeably.
const SLOW: Duration = Duration::from_millis(5);

pub(super) fn check(config: &Config, dir: &Path) -> Vec<Finding> {
    vec![
        sync(dir).unwrap_or_else(|error| finding(Grade::Fail, "disk sync", error.to_string())),
        space(config, dir),
    ]
}

fn sync(dir: &Path) -> io::Result<Finding> {
    let path = dir.join("sync");
    let file = File::create(&path)?;
    file.write_all_at(&vec![0; 4096 * SYNCS], 0)?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(SYNCS);
    for index in 0..SYNCS {
        let started = Instant::now();
        file.write_all_at(&[1; 4096], 4096 * index as u64)?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort();
    let (median, p99) = (times[SYNCS / 2], times[SYNCS * 99 / 100]);
    let figures = format!("median {median:.0?}, 99th percentile {p99:.0?} for 4 KiB");
    Ok(match median {
        median if median < TOO_FAST => finding(
            Grade::Warn,
            "disk sync",
            format!(
                "{figures}: too fast for a disk; a cache may acknowledge bytes that it would lose in a power failure"
            ),
        ),
        median if median > SLOW => finding(
            Grade::Warn,
            "disk sync",
            format!("{figures}: each answer waits for a sync; use a faster disk"),
        ),
        _ => finding(Grade::Ok, "disk sync", figures),
    })
}

fn space(config: &Config, dir: &Path) -> Finding {
    let limits = &config.journal;
    let wanted = limits.journal_max_bytes + limits.keep_bytes() + limits.journal_min_free;
    match disk::free_space(dir) {
        Err(error) => finding(Grade::Fail, "disk space", error.to_string()),
        Ok(free) if free < limits.journal_min_free => finding(
            Grade::Fail,
            "disk space",
            format!("{free} bytes are free, fewer than JOURNAL_MIN_FREE: events are refused"),
        ),
        Ok(free) if free < wanted => finding(
            Grade::Warn,
            "disk space",
            format!("{free} bytes are free; too few for the journal to grow to JOURNAL_MAX_BYTES"),
        ),
        Ok(free) => finding(Grade::Ok, "disk space", format!("{free} bytes are free")),
    }
}
