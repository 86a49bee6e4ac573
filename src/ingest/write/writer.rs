//! The lanes between the queue, or the journal, and Postgres: each takes a batch, lands it, and takes the next.
//!
//! The bad rows of a batch that Postgres rejects are found by a [probe](super::probe), and the batch is landed again: its
//! bad rows become dead letters in the transaction that stores the others. What no probe can find is halved until it
//! stands alone: a row that fails only beside others, or any row where the probe itself is refused. Each half is a
//! transaction of its own, since a failed COPY leaves its rows behind as dead tuples.

use std::ops::Range;
use std::sync::Arc;

use super::batcher::{Batch, Batcher};
use super::copy::{CopyBatch, Kind};
use super::copy_writer::{CopyWriter, Lane, Rejected, WriteError, unsettled};
use super::verdict::{Fault, Faults};
use crate::ingest::event::dead_letter::Reason;
use crate::ingest::event::row::Tuple;
use crate::ingest::queue::commit_waiter::{NotStored, Outcome};
use crate::observe::Metrics;

/// What the lanes share.
#[derive(Debug, Clone)]
pub struct Writer {
    /// Hands out batches.
    pub batcher: Arc<Batcher>,
    /// Stores them.
    pub lander: CopyWriter,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// What is left to do of a batch.
struct Work {
    places: Range<u64>,
    /// Whether a probe may find more of its bad rows.
    probe: bool,
}

impl Writer {
    /// Runs one lane until nothing comes any more.
    pub async fn run(self, number: i32) {
        let mut lane = Lane::new(number);
        let mut rejected_in_a_row = 0_u64;
        while let Some(flight) = self.batcher.next().await {
            let faults = self.store(&flight, &mut lane).await;
            let Some(fault) = faults.values().next() else {
                rejected_in_a_row = 0;
                continue;
            };
            rejected_in_a_row += 1;
            // Once when it begins and now and then after that, not for each batch.
            if rejected_in_a_row.is_power_of_two() {
                // The code alone: a message may quote the row, and stays with the dead letter.
                let (code, constraint) = (&fault.state, &fault.constraint);
                let (rows, reason) = (faults.len(), fault.reason.name());
                tracing::warn!(
                    rows,
                    reason,
                    code,
                    constraint,
                    "rows are rejected; they are dead letters now"
                );
            }
        }
    }

    /// Stores a batch; returns the faults of the rows that became dead letters.
    async fn store(&self, batch: &Batch, lane: &mut Lane) -> Faults {
        let lot = batch.lot();
        let mut faults = Faults::new();
        // Most batches are settled here.
        let Err(unlanded) = self.land(batch, &lot, 0, lane).await else { return faults };
        let tuples = lot.tuples();
        let whole = Work { places: 0..lot.events, probe: true };
        let mut left = self.next_steps(batch, &lot, whole, unlanded, &tuples, &mut faults).await;
        while let Some(work) = left.pop() {
            let part = lot.part(&tuples, &work.places, &faults);
            if let Err(unlanded) = self.land(batch, &part, work.places.start, lane).await {
                left.extend(self.next_steps(batch, &lot, work, unlanded, &tuples, &mut faults).await);
            }
        }
        faults
    }

    async fn land(
        &self,
        batch: &Batch,
        lot: &CopyBatch<'_>,
        start: u64,
        lane: &mut Lane,
    ) -> Result<(), WriteError> {
        let landed = self.lander.land(lot, lane).await?;
        if lot.kind == Kind::Damage {
            self.metrics.quarantined.inc_by(lot.events);
            batch.settled(&[(start..start + lot.events, Outcome::Dead(&NotStored::Unreadable))]);
            return Ok(());
        }
        self.metrics.copy_committed(landed.stored, landed.duplicates.len() as u64, landed.elapsed);
        // What did not become a row, by its place: a duplicate has no cause.
        let duplicates = landed.duplicates.into_iter().map(|place| (start + place, None));
        let mut skipped: Vec<(u64, Option<NotStored>)> = duplicates.collect();
        for place in landed.dead {
            let Some(fault) = lot.fault(place) else { continue };
            self.metrics.dead.inc();
            self.metrics.dead_letters.with_label_values(&[fault.reason.name()]).inc();
            let cause = match fault.reason {
                Reason::DroppedByTrigger => NotStored::DroppedByTrigger,
                _ => NotStored::Rejected { sqlstate: fault.state.clone() },
            };
            skipped.push((start + place, Some(cause)));
        }
        skipped.sort_unstable_by_key(|(place, _)| *place);
        skipped.dedup_by_key(|(place, _)| *place);
        let mut outcomes = Vec::with_capacity(2 * skipped.len() + 1);
        let mut from = start;
        for (place, cause) in &skipped {
            outcomes.push((from..*place, Outcome::Stored));
            outcomes.push((*place..place + 1, cause.as_ref().map_or(Outcome::Duplicate, Outcome::Dead)));
            from = place + 1;
        }
        outcomes.push((from..start + lot.events, Outcome::Stored));
        batch.settled(&outcomes);
        Ok(())
    }

    /// What is left to do of a part of a lot that was not landed as it was, the first last.
    async fn next_steps(
        &self,
        batch: &Batch,
        lot: &CopyBatch<'_>,
        work: Work,
        unlanded: WriteError,
        tuples: &[Tuple<'_>],
        faults: &mut Faults,
    ) -> Vec<Work> {
        let Work { places, probe } = work;
        match unlanded {
            WriteError::Rejected(rejected) if places.end - places.start <= 1 => {
                faults.insert(places.start, Fault::of(&rejected.error, rejected.attempts));
                vec![Work { places, probe: false }]
            }
            WriteError::Rejected(rejected) if probe => self.probe(places, &rejected, tuples, faults).await,
            WriteError::Rejected(_) | WriteError::TooSlow => halves(&places, probe),
            WriteError::Partly(settled) => {
                let Some(origin) = lot.origin else { return vec![Work { places, probe }] };
                let whole = origin.first + places.start..origin.first + places.end;
                for range in settled.iter() {
                    self.metrics.committed.inc_by(range.end - range.start);
                    let places = range.start - origin.first..range.end - origin.first;
                    batch.settled(&[(places, Outcome::Stored)]);
                }
                let mut left = unsettled(&whole, &settled);
                left.reverse();
                left.into_iter()
                    .map(|range| range.start - origin.first..range.end - origin.first)
                    .map(|places| Work { places, probe })
                    .collect()
            }
        }
    }

    /// Adds the faults of the rows at `places` to those that are known.
    async fn probe(
        &self,
        places: Range<u64>,
        rejected: &Rejected,
        tuples: &[Tuple<'_>],
        faults: &mut Faults,
    ) -> Vec<Work> {
        let good = places.clone().filter(|place| !faults.contains_key(place));
        let good: Vec<(u64, Tuple<'_>)> =
            good.filter_map(|place| Some((place, *tuples.get(place as usize)?))).collect();
        match self.lander.probe(&good, rejected.attempts).await {
            Ok(found) if found.is_empty() => halves(&places, false),
            Ok(found) => {
                faults.extend(found);
                vec![Work { places, probe: true }]
            }
            Err(error) => {
                self.metrics.probes_failed.inc();
                let total = self.metrics.probes_failed.get();
                if total.is_power_of_two() {
                    let error = error.with_sources();
                    tracing::warn!(total, error, "a probe for bad rows failed; they are found by halving");
                }
                halves(&places, true)
            }
        }
    }
}

fn halves(places: &Range<u64>, probe: bool) -> Vec<Work> {
    let middle = places.start + (places.end - places.start) / 2;
    [middle..places.end, places.start..middle].map(|places| Work { places, probe }).into()
}
