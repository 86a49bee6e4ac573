//! `tidegate journal`: lists, checks and exports segments, and handles losses. Works beside a running service too.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use rangemap::RangeSet;

use super::output::{print_line, read_to_its_end};
use super::{Failure, offline};
use crate::config::Config;
use crate::db;
use crate::ingest::journal::disk::{self, LossRecords, SegmentInfo};
use crate::ingest::journal::{JournalError, JournalId, JournalRead, JournalReader, Loss, LossState};
use crate::ingest::row;
use crate::ingest::{Restored, Restorer};

#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    /// Reads everything and verifies checksums. Exits 1 if acknowledged events are lost.
    #[arg(long)]
    check: bool,
    /// Writes the events of a segment to standard output, one JSON object per line.
    #[arg(long, value_name = "SEGMENT", conflicts_with = "check")]
    export: Option<PathBuf>,
    /// Acknowledges a loss, which ends its report: the id of a loss, or of a journal for all its losses. Repeatable.
    #[arg(long, value_name = "ID", conflicts_with_all = ["check", "export"])]
    acknowledge: Vec<String>,
    /// Reads the bytes of all losses again, and stores the events that are readable now, each exactly once.
    #[arg(long, conflicts_with_all = ["check", "export", "acknowledge"])]
    recover: bool,
}

/// Bytes per read.
const READ_BYTES: usize = 4 * 1024 * 1024;

pub(super) fn run(args: &JournalArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    let dir = config.database.data_dir.join("journal");
    let records = LossRecords::in_folder(&dir);
    if !args.acknowledge.is_empty() {
        return acknowledge(&records, &args.acknowledge);
    }
    if args.recover {
        return recover(&config, &records);
    }
    let (reader, recovered) = disk::inspect(&dir).map_err(|error| failed(&error))?;
    let segments = reader.segments();
    if let Some(wanted) = &args.export {
        let segment = segments.iter().find(|segment| segment.file.file_name() == wanted.file_name());
        let segment =
            segment.ok_or_else(|| Failure::Run(format!("there is no segment {}", wanted.display())))?;
        return read_to_its_end(export(&reader, segment))
            .map_err(|error| Failure::Run(format!("cannot export: {error}")));
    }
    let losses = records.list().map_err(|error| failed(&error))?;
    let mut check = Check { reader: &reader, recorded: recorded(&losses), damaged: 0 };
    for segment in &segments {
        list(segment);
        if args.check {
            check.segment(segment).map_err(|error| failed(&error))?;
        }
    }
    if args.check {
        check.gaps(&segments).map_err(|error| failed(&error))?;
        for damage in &recovered.unknown {
            print_line!("UNREADABLE: {}; its content is unknown", damage.at);
        }
        for segment in &recovered.headless {
            print_line!("the header of {} cannot be read; its events can", segment.display());
        }
    }
    if segments.is_empty() && recovered.unknown.is_empty() {
        print_line!("the journal in {} is empty", dir.display());
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
        None => print_line!("{name}  {}", state.name()),
        Some(journal) => print_line!(
            "{name}  {}  journal {journal}  part {number}  {} events from {first}  {used} bytes",
            state.name(),
            end - first
        ),
    }
}

/// Sequences of recorded losses, in any state.
fn recorded(losses: &[(Loss, LossState)]) -> Vec<(JournalId, RangeSet<u64>)> {
    let mut recorded: Vec<(JournalId, RangeSet<u64>)> = Vec::new();
    for (loss, _) in losses {
        let Some(events) = loss.events.filter(|events| *events > 0) else { continue };
        let journal = JournalId(loss.journal);
        if !recorded.iter().any(|(known, _)| *known == journal) {
            recorded.push((journal, RangeSet::new()));
        }
        if let Some((_, ranges)) = recorded.iter_mut().find(|(known, _)| *known == journal) {
            ranges.insert(loss.first..loss.first.saturating_add(events));
        }
    }
    recorded
}

/// A pass over all segments.
struct Check<'a> {
    reader: &'a JournalReader,
    recorded: Vec<(JournalId, RangeSet<u64>)>,
    /// Unreadable events without a recorded loss.
    damaged: u64,
}

impl Check<'_> {
    fn segment(&mut self, segment: &SegmentInfo) -> Result<(), JournalError> {
        let Some(journal) = segment.journal else { return Ok(()) };
        if self.range(journal, segment.first, segment.end)? == 0 {
            print_line!("  checked");
        }
        Ok(())
    }

    /// Checks the gaps between segments.
    fn gaps(&mut self, segments: &[SegmentInfo]) -> Result<(), JournalError> {
        for pair in segments.windows(2) {
            let [before, after] = pair else { continue };
            if let Some(journal) = before.journal.filter(|journal| after.journal == Some(*journal)) {
                self.range(journal, before.end, after.first)?;
            }
        }
        Ok(())
    }

    /// Reads a range. Returns the number of unreadable events.
    fn range(&mut self, journal: JournalId, first: u64, end: u64) -> Result<u64, JournalError> {
        let (mut next, mut bad) = (first, 0);
        while next < end {
            match self.reader.read(journal, next, end, READ_BYTES)? {
                JournalRead::Rows(rows) => next = rows.until,
                JournalRead::Damaged { from, until, at } => {
                    let events = until - from;
                    let recorded = self.recorded.iter().find(|(known, _)| *known == journal);
                    let new: u64 = recorded.map_or(events, |(_, ranges)| {
                        ranges.gaps(&(from..until)).map(|gap| gap.end - gap.start).sum()
                    });
                    print_line!("  DAMAGED: {events} events, {from} to {}: {at}", until - 1);
                    self.damaged += new;
                    bad += events;
                    next = until;
                }
            }
        }
        Ok(bad)
    }
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
        print_line!(
            "LOST {}: {what}: {} at offset {}, {} bytes, {}",
            loss.id(),
            loss.segment.display(),
            loss.offset,
            loss.bytes,
            loss.cause.describe()
        );
        if let Some(copy) = &loss.copy {
            print_line!("  a copy of the bytes is {}", copy.display());
        }
        sum + loss.lost()
    })
}

fn acknowledge(records: &LossRecords, ids: &[String]) -> Result<(), Failure> {
    for id in ids {
        match records.acknowledge(id).map_err(|error| failed(&error))? {
            None => {
                return Err(Failure::Run(format!("there is no loss {id}: `tidegate journal` lists them")));
            }
            Some(0) => print_line!("{id} was acknowledged before"),
            Some(_) => print_line!("{id} is acknowledged"),
        }
    }
    Ok(())
}

fn recover(config: &Config, records: &LossRecords) -> Result<(), Failure> {
    let losses = records.list().map_err(|error| failed(&error))?;
    let losses: Vec<_> = losses.into_iter().filter(|(_, state)| *state != LossState::Recovered).collect();
    if losses.is_empty() {
        print_line!("nothing is lost");
        return Ok(());
    }
    let left = offline::with_database(config, async |database| {
        let restorer = Restorer::new(&database, config.ingest.idempotency_window_s);
        let mut left = 0;
        for (mut loss, state) in losses {
            let mut sum = Restored::default();
            let mut salvage = records.salvage(&loss).map_err(|error| failed(&error))?;
            while let Some(rows) = salvage.next_rows().map_err(|error| failed(&error))? {
                let restored = restorer.restore(loss.journal, &rows).await;
                let restored = restored.map_err(|error| Failure::Run(error.with_sources()))?;
                sum.add(restored);
                if restored.unsettled == 0 {
                    loss.add_recovered(rows.from..rows.until);
                    records.update(&loss, state).map_err(|error| failed(&error))?;
                }
            }
            left += loss.lost();
            report(&loss, &sum);
        }
        Ok(left)
    })?;
    if left == 0 { Ok(()) } else { Err(Failure::Run(format!("{left} acknowledged events are still lost"))) }
}

fn report(loss: &Loss, sum: &Restored) {
    let (id, found) = (loss.id(), sum.found());
    if loss.events.is_none() {
        print_line!(
            "{id}: the segment's content is unknown; put it back while the service is stopped, and the next start stores its events"
        );
        return;
    }
    print_line!(
        "{id}: {found} events can be read: {} stored, {} duplicates, {} dead letters, {} stored before; {} are still lost",
        sum.stored,
        sum.duplicates,
        sum.dead,
        sum.present,
        loss.lost()
    );
    if sum.unsettled > 0 {
        print_line!("  {} are not settled yet: the service stores them, or try again later", sum.unsettled);
    }
}

fn export(reader: &JournalReader, segment: &SegmentInfo) -> io::Result<()> {
    let Some(journal) = segment.journal else { return Ok(()) };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut next = segment.first;
    while next < segment.end {
        match reader.read(journal, next, segment.end, READ_BYTES).map_err(io::Error::other)? {
            JournalRead::Damaged { from, until, .. } => {
                eprintln!("tidegate: the events {from} to {} are damaged, and omitted", until - 1);
                next = until;
            }
            JournalRead::Rows(rows) => {
                next = rows.until;
                for tuple in rows.rows().flat_map(row::tuples) {
                    row::write_json(tuple, &mut out)?;
                }
            }
        }
    }
    out.flush()
}
