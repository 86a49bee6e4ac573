//! Drills with the real journal in a scratch folder.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Finding, Grade, finding};
use crate::ingest::id;
use crate::ingest::journal::disk::{self, DiskSettings, OpenedJournal};
use crate::ingest::journal::{AppendError, JournalRead, Records};
use crate::ingest::row::{COLUMNS, Content, Row};

const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// The time after which the writing process is killed.
const WRITING: Duration = Duration::from_millis(700);

fn settings(dir: &Path) -> DiskSettings {
    DiskSettings {
        dir: dir.to_owned(),
        columns: COLUMNS,
        segment_bytes: SEGMENT_BYTES,
        max_bytes: 64 * SEGMENT_BYTES,
        keep_bytes: 0,
        min_free: 0,
    }
}

fn row(number: u64) -> Vec<u8> {
    let text = number.to_string();
    let row = Row {
        id: id::lower_bound(number),
        trace_id: text.as_bytes(),
        content: Content::Jsonb(b"{\"drill\":true}"),
        content_type: None,
        received_at_us: id::unix_now_us(),
    };
    let mut encoded = Vec::new();
    row.encode(&mut encoded);
    encoded
}

/// The process that the crash drill kills: it appends, syncs, and prints the synced sequence.
///
/// # Errors
///
/// If the journal or the pipe fails.
pub fn write_until_killed(dir: &Path) -> io::Result<()> {
    let OpenedJournal { mut writer, .. } = disk::open(settings(dir)).map_err(io::Error::other)?;
    let mut out = io::stdout().lock();
    let started = Instant::now();
    while started.elapsed() < WRITING * 20 {
        let first = writer.next_sequence();
        let rows: Vec<Vec<u8>> = (first..first + 20).map(row).collect();
        let group: Vec<Records<'_>> =
            rows.iter().map(|rows| Records { rows, events: 1, keys: &[] }).collect();
        writer.append(&group).and_then(|()| writer.flush()).map_err(io::Error::other)?;
        writeln!(out, "{}", writer.next_sequence())?;
        out.flush()?;
    }
    Ok(())
}

/// Kills a process that writes a journal, and checks that all events reported as synced are there.
pub(super) fn crash(dir: &Path) -> Finding {
    match crash_drill(&dir.join("crash")) {
        Ok((synced, found)) if found >= synced && synced > 0 => finding(
            Grade::Ok,
            "crash drill",
            format!("a process was killed; all {synced} events that it had synced are there"),
        ),
        Ok((synced, found)) => {
            finding(Grade::Fail, "crash drill", format!("only {found} of {synced} synced events were found"))
        }
        Err(error) => finding(Grade::Fail, "crash drill", error.to_string()),
    }
}

fn crash_drill(dir: &Path) -> io::Result<(u64, u64)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["doctor", "--drill"])
        .arg(dir)
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()?;
    let lines = child.stdout.take().map(BufReader::new);
    std::thread::sleep(WRITING);
    child.kill()?;
    child.wait()?;
    // Its output up to the kill; the last line may be cut short.
    let mut synced = 0;
    for line in lines.into_iter().flat_map(BufRead::lines) {
        synced = line?.parse().unwrap_or(synced).max(synced);
    }
    let OpenedJournal { reader, .. } = disk::open(settings(dir)).map_err(io::Error::other)?;
    let mut found = 0;
    for held in reader.held().into_iter().filter(|held| !held.current) {
        let mut next = held.first;
        while next < held.end {
            match reader.read(held.journal, next, held.end, 1 << 20).map_err(io::Error::other)? {
                JournalRead::Rows(rows) => {
                    found += rows.until - rows.from;
                    next = rows.until;
                }
                JournalRead::Damaged { until, .. } => next = until,
            }
        }
    }
    Ok((synced, found))
}

/// Fills a journal up to its maximum size, and opens one below the minimum of free space: both refuse events, and no synced
/// event is lost.
pub(super) fn full_disk(dir: &Path) -> Finding {
    match full_disk_drill(&dir.join("full")) {
        Ok(events) => finding(
            Grade::Ok,
            "full-disk drill",
            format!("a journal without space refused new events, and kept its {events} events"),
        ),
        Err(error) => finding(Grade::Fail, "full-disk drill", error.to_string()),
    }
}

fn full_disk_drill(dir: &Path) -> io::Result<u64> {
    let small = DiskSettings { max_bytes: 3 * SEGMENT_BYTES, ..settings(dir) };
    let OpenedJournal { mut writer, reader, .. } = disk::open(small).map_err(io::Error::other)?;
    let large = row(0).repeat(2000);
    let group = [Records { rows: &large, events: 2000, keys: &[] }];
    let refused = loop {
        match writer.append(&group).and_then(|()| writer.flush()) {
            Ok(()) if writer.next_sequence() > 10_000_000 => break None,
            Ok(()) => {}
            Err(error) => break Some(error),
        }
    };
    if !matches!(refused, Some(AppendError::Full)) {
        return Err(io::Error::other(format!("a full journal should refuse, but answered {refused:?}")));
    }
    let journal = writer.journal();
    let end = writer.next_sequence();
    drop((writer, reader));
    let no_space = DiskSettings { min_free: u64::MAX, ..settings(dir) };
    let OpenedJournal { mut writer, reader, .. } = disk::open(no_space).map_err(io::Error::other)?;
    match writer.append(&group) {
        Err(AppendError::MinFree) => {}
        other => {
            return Err(io::Error::other(format!(
                "a journal without free space should refuse, but answered {other:?}"
            )));
        }
    }
    let held = reader.held().into_iter().find(|held| held.journal == journal);
    match held {
        Some(held) if held.end == end => Ok(end),
        held => Err(io::Error::other(format!("of {end} events, {:?} are left", held.map(|held| held.end)))),
    }
}
