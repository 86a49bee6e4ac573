//! The lanes between the queue, or the journal, and Postgres. Each takes a batch, writes it, and takes the next.
//!
//! If Postgres rejects a batch, a [probe](super::probe) isolates its bad rows, and the batch is written again: the bad rows
//! become dead letters in the transaction that stores the others. What no probe can isolate is bisected until it stands
//! alone: a row that fails only beside others, or any row if the probe itself is refused. Each half is a transaction of its
//! own, since the rows of a failed COPY remain as dead tuples.

use std::ops::Range;
use std::sync::Arc;

use super::batcher::{Batch, Batcher};
use super::copy::{CopyBatch, Kind};
use super::copy_writer::{CopyWriter, Lane, Rejected, WriteError, Written, unsettled};
use super::lanes::{LaneActivity, LaneSlot};
use super::verdict::{Fault, Faults};
use crate::bisect;
use crate::ingest::event::dead_letter::Reason;
use crate::ingest::event::row::Tuple;
use crate::ingest::queue::commit_waiter::{NotStored, Outcome};
use crate::observe::Metrics;

/// What the lanes share.
#[derive(Debug, Clone)]
pub struct Writer {
    /// The source of batches.
    pub batcher: Arc<Batcher>,
    /// Stores them.
    pub copy_writer: CopyWriter,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where the lanes note what they are doing, by their numbers.
    pub lanes: Arc<[Arc<LaneSlot>]>,
}

/// A part of a batch that is still to be written.
struct Part {
    /// The indices of its rows.
    range: Range<u64>,
    /// Whether a probe may find more of its bad rows.
    may_probe: bool,
}

impl Writer {
    /// Runs one lane until the batcher ends.
    pub async fn run(self, number: i32) {
        let slot = usize::try_from(number).ok().and_then(|number| self.lanes.get(number)).cloned();
        let slot = slot.unwrap_or_default();
        let mut lane = Lane::noting(number, Arc::clone(&slot));
        let mut rejected_in_a_row = 0_u64;
        while let Some(batch) = self.batcher.next().await {
            self.metrics.gauges.lanes_busy.inc();
            let faults = self.write(&batch, &mut lane, &slot).await;
            self.metrics.gauges.lanes_busy.dec();
            slot.end();
            self.batcher.set_rejecting(!faults.is_empty());
            let Some(fault) = faults.values().next() else {
                rejected_in_a_row = 0;
                continue;
            };
            rejected_in_a_row += 1;
            // Not for each batch.
            if rejected_in_a_row.is_power_of_two() {
                // Without the message, which may quote the row: it stays with the dead letter.
                let (code, constraint) = (&fault.state, &fault.constraint);
                let (rows, reason) = (faults.len(), fault.reason.name());
                tracing::warn!(rows, reason, code, constraint, "rejected rows became dead letters");
            }
        }
    }

    /// Writes a batch; returns the faults of the rows that became dead letters.
    async fn write(&self, batch: &Batch, lane: &mut Lane, slot: &LaneSlot) -> Faults {
        let whole = batch.copy_batch();
        slot.begin(whole.events);
        let mut faults = Faults::new();
        // Most batches end here.
        let Err(error) = self.write_part(batch, &whole, 0, lane).await else { return faults };
        slot.enter(LaneActivity::Isolating);
        let tuples = whole.tuples();
        let part = Part { range: 0..whole.events, may_probe: true };
        let mut pending = self.isolate(batch, &whole, part, error, &tuples, &mut faults).await;
        while let Some(part) = pending.pop() {
            slot.enter(LaneActivity::Isolating);
            let copy_batch = whole.part(&tuples, &part.range, &faults);
            if let Err(error) = self.write_part(batch, &copy_batch, part.range.start, lane).await {
                pending.extend(self.isolate(batch, &whole, part, error, &tuples, &mut faults).await);
            }
        }
        faults
    }

    /// Writes a part of a batch that begins at the index `start`, and reports its outcomes.
    async fn write_part(
        &self,
        batch: &Batch,
        part: &CopyBatch<'_>,
        start: u64,
        lane: &mut Lane,
    ) -> Result<(), WriteError> {
        let written = self.copy_writer.write(part, lane).await?;
        if part.kind == Kind::Damage {
            self.metrics.quarantined.inc_by(part.events);
            batch.settled(&[(start..start + part.events, Outcome::Dead(&NotStored::Unreadable))]);
            return Ok(());
        }
        self.metrics.copy_committed(written.stored, written.duplicates.len() as u64, written.elapsed);
        let skipped = self.skipped(part, written);
        let mut outcomes = Vec::with_capacity(2 * skipped.len() + 1);
        let mut from = start;
        for (index, cause) in &skipped {
            let index = start + index;
            outcomes.push((from..index, Outcome::Stored));
            outcomes.push((index..index + 1, cause.as_ref().map_or(Outcome::Duplicate, Outcome::Dead)));
            from = index + 1;
        }
        outcomes.push((from..start + part.events, Outcome::Stored));
        batch.settled(&outcomes);
        Ok(())
    }

    /// The indices of events that did not become rows of `requests`, in order, each with its cause; `None`: a duplicate.
    fn skipped(&self, part: &CopyBatch<'_>, written: Written) -> Vec<(u64, Option<NotStored>)> {
        let duplicates = written.duplicates.into_iter().map(|index| (index, None));
        let mut skipped: Vec<(u64, Option<NotStored>)> = duplicates.collect();
        for index in written.dead {
            let Some(fault) = part.fault(index) else { continue };
            self.metrics.dead.inc();
            self.metrics.dead_letters.with_label_values(&[fault.reason.name()]).inc();
            let cause = match fault.reason {
                Reason::DroppedByTrigger => NotStored::DroppedByTrigger,
                _ => NotStored::Rejected { sqlstate: fault.state.clone() },
            };
            skipped.push((index, Some(cause)));
        }
        skipped.sort_unstable_by_key(|(index, _)| *index);
        skipped.dedup_by_key(|(index, _)| *index);
        skipped
    }

    /// The parts that are to be written instead of a part that failed, the first one last.
    async fn isolate(
        &self,
        batch: &Batch,
        whole: &CopyBatch<'_>,
        part: Part,
        error: WriteError,
        tuples: &[Tuple<'_>],
        faults: &mut Faults,
    ) -> Vec<Part> {
        let Part { range, may_probe } = part;
        match error {
            WriteError::Rejected(rejected) if range.end - range.start <= 1 => {
                faults.insert(range.start, Fault::of(&rejected.error, rejected.attempts));
                vec![Part { range, may_probe: false }]
            }
            WriteError::Rejected(rejected) if may_probe => self.probe(range, &rejected, tuples, faults).await,
            WriteError::Rejected(_) | WriteError::TooSlow => halves(range, may_probe),
            WriteError::PartlySettled(settled) => {
                let Some(origin) = whole.origin else { return vec![Part { range, may_probe }] };
                let sequences = origin.first + range.start..origin.first + range.end;
                for settled in settled.iter() {
                    self.metrics.committed.inc_by(settled.end - settled.start);
                    let range = settled.start - origin.first..settled.end - origin.first;
                    batch.settled(&[(range, Outcome::Stored)]);
                }
                let mut pending = unsettled(&sequences, &settled);
                pending.reverse();
                pending
                    .into_iter()
                    .map(|sequences| sequences.start - origin.first..sequences.end - origin.first)
                    .map(|range| Part { range, may_probe })
                    .collect()
            }
        }
    }

    /// Adds the faults of the rows in `range` to the known ones.
    async fn probe(
        &self,
        range: Range<u64>,
        rejected: &Rejected,
        tuples: &[Tuple<'_>],
        faults: &mut Faults,
    ) -> Vec<Part> {
        let good = range.clone().filter(|index| !faults.contains_key(index));
        let good: Vec<(u64, Tuple<'_>)> =
            good.filter_map(|index| Some((index, *tuples.get(index as usize)?))).collect();
        match self.copy_writer.probe(&good, rejected.attempts).await {
            Ok(found) if found.is_empty() => halves(range, false),
            Ok(found) => {
                faults.extend(found);
                vec![Part { range, may_probe: true }]
            }
            Err(error) => {
                self.metrics.probes_failed.inc();
                let total = self.metrics.probes_failed.get();
                if total.is_power_of_two() {
                    let error = error.with_sources();
                    tracing::warn!(total, error, "a probe for bad rows failed; they are found by bisection");
                }
                halves(range, true)
            }
        }
    }
}

/// The halves of a part, the first one last.
fn halves(range: Range<u64>, may_probe: bool) -> Vec<Part> {
    match bisect::halves(&range) {
        Some([left, right]) => [right, left].map(|range| Part { range, may_probe }).into(),
        None => vec![Part { range, may_probe }],
    }
}
