//! `tidegate journal`: what is in the journal's files. Only reads, beside a running service too.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::Failure;
use crate::config::Config;
use crate::db;
use crate::ingest::journal::{self, JournalError, JournalId, Piece, RealFiles, SegmentInfo, Store};
use crate::ingest::row;

#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    /// Reads everything and verifies the checksums.
    #[arg(long)]
    check: bool,
    /// Writes the events of a segment to standard output, one JSON object a line.
    #[arg(long, value_name = "SEGMENT", conflicts_with = "check")]
    export: Option<PathBuf>,
}

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 4 * 1024 * 1024;

pub(super) fn run(args: &JournalArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    let dir = config.database.data_dir.join("journal");
    let failed = |error: &dyn std::error::Error| Failure::Run(db::chain(error));
    let (store, _) = journal::inspect(Arc::new(RealFiles), &dir).map_err(|error| failed(&error))?;
    let segments = store.segments();
    if let Some(wanted) = &args.export {
        let segment = segments.iter().find(|segment| segment.file.file_name() == wanted.file_name());
        let segment =
            segment.ok_or_else(|| Failure::Run(format!("there is no segment {}", wanted.display())))?;
        return export(&store, segment).map_err(|error| Failure::Run(format!("cannot export: {error}")));
    }
    let mut damaged = 0;
    for segment in &segments {
        let SegmentInfo { journal, number, first, end, used, state, file, .. } = segment;
        let name = file.file_name().unwrap_or_default().display();
        let Some(journal) = journal else {
            println!("{name}  {}", state.name());
            continue;
        };
        let events = end - first;
        println!(
            "{name}  {}  journal {journal}  part {number}  {events} events from {first}  {used} bytes",
            state.name()
        );
        if args.check {
            let bad = check(&store, *journal, segment).map_err(|error| failed(&error))?;
            damaged += bad;
            match bad {
                0 => println!("  checked"),
                bad => println!("  DAMAGED: {bad} events cannot be read"),
            }
        }
    }
    if segments.is_empty() {
        println!("the journal in {} is empty", dir.display());
    }
    if damaged == 0 { Ok(()) } else { Err(Failure::Run(format!("{damaged} events cannot be read"))) }
}

fn check(store: &Store, journal: JournalId, segment: &SegmentInfo) -> Result<u64, JournalError> {
    let (mut next, mut damaged) = (segment.first, 0);
    while next < segment.end {
        match store.read(journal, next, segment.end, PIECE_BYTES)? {
            Piece::Rows(chunk) => next = chunk.until,
            Piece::Damaged { from, until, .. } => (next, damaged) = (until, damaged + until - from),
        }
    }
    Ok(damaged)
}

fn export(store: &Store, segment: &SegmentInfo) -> io::Result<()> {
    let Some(journal) = segment.journal else { return Ok(()) };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut next = segment.first;
    while next < segment.end {
        let piece = store.read(journal, next, segment.end, PIECE_BYTES).map_err(io::Error::other)?;
        match piece {
            Piece::Damaged { from, until, .. } => {
                eprintln!("tidegate: the events {from} to {} are damaged and left out", until - 1);
                next = until;
            }
            Piece::Rows(chunk) => {
                next = chunk.until;
                for stretch in &chunk.stretches {
                    for tuple in row::tuples(chunk.buffer.get(stretch.clone()).unwrap_or_default()) {
                        tuple.write_json(&mut out)?;
                    }
                }
            }
        }
    }
    out.flush()
}
