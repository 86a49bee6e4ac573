//! `tidegate journal`: what is in the journal's files, and what was lost of them. Works beside a running service too.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rangemap::RangeSet;

use super::{Failure, offline};
use crate::config::Config;
use crate::db;
use crate::ingest::journal::{
    self, DamagedBytes, Files, JournalError, JournalId, JournalReader, Loss, LossState, Piece, RealFiles,
    Salvage, SegmentInfo, losses,
};
use crate::ingest::row;
use crate::ingest::{Restored, Restorer};

#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    /// Reads everything and verifies the checksums. Exits 1 if acknowledged events are lost.
    #[arg(long)]
    check: bool,
    /// Writes the events of a segment to standard output, one JSON object a line.
    #[arg(long, value_name = "SEGMENT", conflicts_with = "check")]
    export: Option<PathBuf>,
    /// Ends the report of a loss: its id, or a journal's for all of its losses. May be given several times.
    #[arg(long, value_name = "ID", conflicts_with_all = ["check", "export"])]
    acknowledge: Vec<String>,
    /// Reads the bytes of all losses again, and stores the events that are good now, each exactly once.
    #[arg(long, conflicts_with_all = ["check", "export", "acknowledge"])]
    recover: bool,
}

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 4 * 1024 * 1024;

pub(super) fn run(args: &JournalArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    let dir = config.database.data_dir.join("journal");
    if !args.acknowledge.is_empty() {
        return acknowledge(&dir, &args.acknowledge);
    }
    if args.recover {
        return recover(&config, &dir);
    }
    let (store, recovered) =
        journal::inspect(Arc::new(RealFiles::default()), &dir).map_err(|error| failed(&error))?;
    let segments = store.segments();
    if let Some(wanted) = &args.export {
        let segment = segments.iter().find(|segment| segment.file.file_name() == wanted.file_name());
        let segment =
            segment.ok_or_else(|| Failure::Run(format!("there is no segment {}", wanted.display())))?;
        return export(&store, segment).map_err(|error| Failure::Run(format!("cannot export: {error}")));
    }
    let losses = losses::list(&RealFiles::default(), &dir).map_err(|error| failed(&error))?;
    let mut check = Check { store: &store, seen: seen(&losses), damaged: 0 };
    for segment in &segments {
        list(segment);
        if args.check {
            check.segment(segment).map_err(|error| failed(&error))?;
        }
    }
    if args.check {
        check.gaps(&segments).map_err(|error| failed(&error))?;
        for damage in &recovered.unknown {
            println!("UNREADABLE: {}; its content is unknown", describe(&damage.at));
        }
        for segment in &recovered.headless {
            println!("the header of {} cannot be read; its events can", segment.display());
        }
    }
    if segments.is_empty() && recovered.unknown.is_empty() {
        println!("the journal in {} is empty", dir.display());
    }
    let lost = print_losses(&losses);
    if !args.check {
        return Ok(());
    }
    let mut problems = Vec::new();
    if lost > 0 {
        problems.push(format!("{lost} acknowledged events are lost"));
    }
    if check.damaged > 0 {
        problems.push(format!(
            "{} events of the journal cannot be read; those that Postgres does not have will be lost",
            check.damaged
        ));
    }
    if !recovered.unknown.is_empty() {
        problems.push(format!("{} segments cannot be read", recovered.unknown.len()));
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::Run(problems.join("; "))) }
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::Run(db::chain(error))
}

fn list(segment: &SegmentInfo) {
    let SegmentInfo { journal, number, first, end, used, state, file, .. } = segment;
    let name = file.file_name().unwrap_or_default().display();
    match journal {
        None => println!("{name}  {}", state.name()),
        Some(journal) => println!(
            "{name}  {}  journal {journal}  part {number}  {} events from {first}  {used} bytes",
            state.name(),
            end - first
        ),
    }
}

/// Sequences whose loss is recorded, in whatever state: their damage is no news.
fn seen(losses: &[(Loss, LossState)]) -> Vec<(JournalId, RangeSet<u64>)> {
    let mut seen: Vec<(JournalId, RangeSet<u64>)> = Vec::new();
    for (loss, _) in losses {
        let Some(events) = loss.events.filter(|events| *events > 0) else { continue };
        let journal = JournalId(loss.journal);
        if !seen.iter().any(|(known, _)| *known == journal) {
            seen.push((journal, RangeSet::new()));
        }
        if let Some((_, ranges)) = seen.iter_mut().find(|(known, _)| *known == journal) {
            ranges.insert(loss.first..loss.first.saturating_add(events));
        }
    }
    seen
}

/// A pass over all segments.
struct Check<'a> {
    store: &'a JournalReader,
    seen: Vec<(JournalId, RangeSet<u64>)>,
    /// Events that cannot be read, and of which no loss is recorded.
    damaged: u64,
}

impl Check<'_> {
    fn segment(&mut self, segment: &SegmentInfo) -> Result<(), JournalError> {
        let Some(journal) = segment.journal else { return Ok(()) };
        if self.range(journal, segment.first, segment.end)? == 0 {
            println!("  checked");
        }
        Ok(())
    }

    /// What lies between segments.
    fn gaps(&mut self, segments: &[SegmentInfo]) -> Result<(), JournalError> {
        for pair in segments.windows(2) {
            let [before, after] = pair else { continue };
            if let Some(journal) = before.journal.filter(|journal| after.journal == Some(*journal)) {
                self.range(journal, before.end, after.first)?;
            }
        }
        Ok(())
    }

    /// How many events of a range cannot be read.
    fn range(&mut self, journal: JournalId, first: u64, end: u64) -> Result<u64, JournalError> {
        let (mut next, mut bad) = (first, 0);
        while next < end {
            match self.store.read(journal, next, end, PIECE_BYTES)? {
                Piece::Rows(chunk) => next = chunk.until,
                Piece::Damaged { from, until, at } => {
                    let events = until - from;
                    let seen = self.seen.iter().find(|(known, _)| *known == journal);
                    let new: u64 = seen.map_or(events, |(_, ranges)| {
                        ranges.gaps(&(from..until)).map(|gap| gap.end - gap.start).sum()
                    });
                    println!("  DAMAGED: {events} events, {from} to {}: {}", until - 1, describe(&at));
                    self.damaged += new;
                    bad += events;
                    next = until;
                }
            }
        }
        Ok(bad)
    }
}

fn describe(at: &DamagedBytes) -> String {
    let DamagedBytes { segment, offset, bytes, cause, .. } = at;
    format!("{} at offset {offset}, {bytes} bytes, {}", segment.display(), cause.describe())
}

/// Prints the unacknowledged losses; returns the number of their events.
pub(super) fn print_losses(losses: &[(Loss, LossState)]) -> u64 {
    let reported = losses.iter().filter(|(_, state)| *state == LossState::Lost);
    reported.fold(0, |sum, (loss, _)| {
        let what = match loss.events {
            Some(_) => {
                format!("{} acknowledged events of journal {} from {}", loss.lost(), loss.journal, loss.first)
            }
            None => format!("an unknown number of acknowledged events of journal {}", loss.journal),
        };
        println!(
            "LOST {}: {what}: {} at offset {}, {} bytes, {}",
            loss.id(),
            loss.segment.display(),
            loss.offset,
            loss.bytes,
            loss.cause.describe()
        );
        if let Some(copy) = &loss.copy {
            println!("  a copy of the bytes is {}", copy.display());
        }
        sum + loss.lost()
    })
}

fn acknowledge(dir: &Path, wanted: &[String]) -> Result<(), Failure> {
    for id in wanted {
        match losses::acknowledge(&RealFiles::default(), dir, id).map_err(|error| failed(&error))? {
            None => {
                return Err(Failure::Run(format!("there is no loss {id}: `tidegate journal` lists them")));
            }
            Some(0) => println!("{id} was acknowledged before"),
            Some(_) => println!("{id} is acknowledged"),
        }
    }
    Ok(())
}

fn recover(config: &Config, dir: &Path) -> Result<(), Failure> {
    let files: Arc<dyn Files> = Arc::new(RealFiles::default());
    let losses = losses::list(&*files, dir).map_err(|error| failed(&error))?;
    let losses: Vec<_> = losses.into_iter().filter(|(_, state)| *state != LossState::Recovered).collect();
    if losses.is_empty() {
        println!("nothing is lost");
        return Ok(());
    }
    let left = offline::with_database(config, async |database| {
        let restorer = Restorer::new(&database, config.ingest.idempotency_window_s);
        let mut left = 0;
        for (mut loss, state) in losses {
            let mut sum = Restored::default();
            let salvage = Salvage::of(Arc::clone(&files), dir, &loss);
            let mut salvage = salvage.map_err(|error| failed(&error))?;
            while let Some(chunk) = salvage.next_chunk().map_err(|error| failed(&error))? {
                let restored = restorer.restore(loss.journal, &chunk).await;
                let restored = restored.map_err(|error| Failure::Run(error.with_sources()))?;
                sum.add(restored);
                if restored.unsettled == 0 {
                    loss.add_recovered(chunk.from..chunk.until);
                    losses::update(&*files, dir, &loss, state).map_err(|error| failed(&error))?;
                }
            }
            left += loss.lost();
            report(&loss, &sum);
        }
        Ok(left)
    })?;
    if left == 0 { Ok(()) } else { Err(Failure::Run(format!("{left} acknowledged events are lost still"))) }
}

fn report(loss: &Loss, sum: &Restored) {
    let (id, found) = (loss.id(), sum.found());
    if loss.events.is_none() {
        println!(
            "{id}: the segment's content is unknown; put it back while the service is stopped, and the next start stores it"
        );
        return;
    }
    println!(
        "{id}: {found} events can be read: {} stored, {} duplicates, {} dead letters, {} present already; {} are still lost",
        sum.stored,
        sum.duplicates,
        sum.dead,
        sum.present,
        loss.lost()
    );
    if sum.unsettled > 0 {
        println!(
            "  {} are not settled yet: the service stores them itself, or try again later",
            sum.unsettled
        );
    }
}

fn export(store: &JournalReader, segment: &SegmentInfo) -> io::Result<()> {
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
                for stretch in &chunk.chunks {
                    for tuple in row::tuples(chunk.buffer.get(stretch.clone()).unwrap_or_default()) {
                        tuple.write_json(&mut out)?;
                    }
                }
            }
        }
    }
    out.flush()
}
