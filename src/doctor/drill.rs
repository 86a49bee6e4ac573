//! Drills, with the real journal in a scratch folder.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Finding, Grade, finding};
use crate::ingest::id;
use crate::ingest::journal::{self, AppendError, JournalSettings, Piece, RealFiles, Records};
use crate::ingest::row::{Content, Row};

const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// How long the process writes before it is killed.
const WRITING: Duration = Duration::from_millis(700);

fn settings(dir: &Path) -> JournalSettings {
    JournalSettings {
        dir: dir.to_owned(),
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

/// What the process does that is to be killed: appends, syncs, and says what it has synced.
///
/// # Errors
///
/// If the journal or the pipe fails.
pub fn write_until_killed(dir: &Path) -> io::Result<()> {
    let (mut appender, _store, _) =
        journal::open(Arc::new(RealFiles::default()), settings(dir)).map_err(io::Error::other)?;
    let mut out = io::stdout().lock();
    let started = Instant::now();
    while started.elapsed() < WRITING * 20 {
        let first = appender.next_sequence();
        let rows: Vec<Vec<u8>> = (first..first + 20).map(row).collect();
        let group: Vec<Records<'_>> =
            rows.iter().map(|rows| Records { rows, events: 1, keys: &[] }).collect();
        appender.append(&group).and_then(|()| appender.sync()).map_err(io::Error::other)?;
        writeln!(out, "{}", appender.next_sequence())?;
        out.flush()?;
    }
    Ok(())
}

/// Kills a process that writes a journal, and looks whether all is there that it had called synced.
pub(super) fn crash(dir: &Path) -> Finding {
    match crash_drill(&dir.join("crash")) {
        Ok((promised, found)) if found >= promised && promised > 0 => finding(
            Grade::Ok,
            "crash drill",
            format!("a process was killed; all {promised} events it had synced are there"),
        ),
        Ok((promised, found)) => finding(
            Grade::Fail,
            "crash drill",
            format!("of {promised} synced events {found} were found again"),
        ),
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
    // What it wrote into the pipe before it was killed, but for a line that was cut.
    let mut promised = 0;
    for line in lines.into_iter().flat_map(BufRead::lines) {
        promised = line?.parse().unwrap_or(promised).max(promised);
    }
    let (_appender, store, _) =
        journal::open(Arc::new(RealFiles::default()), settings(dir)).map_err(io::Error::other)?;
    let mut found = 0;
    for held in store.journals().into_iter().filter(|held| !held.current) {
        let mut next = held.first;
        while next < held.end {
            match store.read(held.journal, next, held.end, 1 << 20).map_err(io::Error::other)? {
                Piece::Rows(chunk) => {
                    found += chunk.until - chunk.from;
                    next = chunk.until;
                }
                Piece::Damaged { until, .. } => next = until,
            }
        }
    }
    Ok((promised, found))
}

/// Fills the room that the journal may take, and leaves it less than it must leave to others: both are refusals, and
/// nothing that was synced is lost.
pub(super) fn full_disk(dir: &Path) -> Finding {
    match full_disk_drill(&dir.join("full")) {
        Ok(events) => finding(
            Grade::Ok,
            "full-disk drill",
            format!("a journal without room refused what came, and kept its {events} events"),
        ),
        Err(error) => finding(Grade::Fail, "full-disk drill", error.to_string()),
    }
}

fn full_disk_drill(dir: &Path) -> io::Result<u64> {
    let little = JournalSettings { max_bytes: 3 * SEGMENT_BYTES, ..settings(dir) };
    let (mut appender, store, _) =
        journal::open(Arc::new(RealFiles::default()), little).map_err(io::Error::other)?;
    let large = row(0).repeat(2000);
    let group = [Records { rows: &large, events: 2000, keys: &[] }];
    let refused = loop {
        match appender.append(&group).and_then(|()| appender.sync()) {
            Ok(()) if appender.next_sequence() > 10_000_000 => break None,
            Ok(()) => {}
            Err(error) => break Some(error),
        }
    };
    if !matches!(refused, Some(AppendError::Full)) {
        return Err(io::Error::other(format!("it was to refuse what does not fit, and said {refused:?}")));
    }
    let journal = appender.journal();
    let end = appender.next_sequence();
    drop((appender, store));
    let nothing_left = JournalSettings { min_free: u64::MAX, ..settings(dir) };
    let (mut appender, store, _) =
        journal::open(Arc::new(RealFiles::default()), nothing_left).map_err(io::Error::other)?;
    match appender.append(&group) {
        Err(AppendError::MinFree) => {}
        other => return Err(io::Error::other(format!("it was to leave room to others, and said {other:?}"))),
    }
    let held = store.journals().into_iter().find(|held| held.journal == journal);
    match held {
        Some(held) if held.end == end => Ok(end),
        held => Err(io::Error::other(format!("of {end} events {:?} are left", held.map(|held| held.end)))),
    }
}
