//! The lanes between the queue, or the journal, and Postgres: each takes a batch, lands it, and takes the next.
//!
//! A batch that Postgres refuses for one of its rows is halved until that row stands alone; it becomes a dead letter
//! and its neighbours are stored. Each half is a transaction of its own, since a failed COPY leaves its rows behind as
//! dead tuples. With a journal the dead letter and its receipt are one transaction too.

use std::ops::Range;
use std::sync::Arc;

use super::batcher::Batcher;
use super::dead_letters::{self, DeadLetters, Reason};
use super::landing::{Lander, Lane, Rejected, Unlanded, unsettled};
use super::lot::{Kind, Lot};
use super::row::Tuple;
use super::source::Batch;
use super::ticket::Outcome;
use crate::observe::Metrics;

/// What the lanes share.
#[derive(Debug, Clone)]
pub struct Writer {
    /// Hands out batches.
    pub batcher: Arc<Batcher>,
    /// Stores them.
    pub lander: Lander,
    /// Takes the rows that Postgres refuses, where there is no journal.
    pub dead_letters: DeadLetters,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Writer {
    /// Runs one lane until nothing comes any more.
    pub async fn run(self, number: i32) {
        let mut lane = Lane::new(number);
        while let Some(flight) = self.batcher.next().await {
            self.store(&flight, &mut lane).await;
        }
    }

    async fn store(&self, batch: &Batch, lane: &mut Lane) {
        let lot = batch.lot();
        // Most batches are settled here.
        let Err(unlanded) = self.land(batch, &lot, 0, lane).await else { return };
        let tuples = lot.tuples();
        let mut work = self.cut(batch, &lot, 0..lot.events, unlanded, &tuples, lane).await;
        while let Some(places) = work.pop() {
            let part = lot.part(&tuples, &places);
            if let Err(unlanded) = self.land(batch, &part, places.start, lane).await {
                work.extend(self.cut(batch, &lot, places, unlanded, &tuples, lane).await);
            }
        }
    }

    async fn land(&self, batch: &Batch, lot: &Lot<'_>, place: u64, lane: &mut Lane) -> Result<(), Unlanded> {
        let landed = self.lander.land(lot, lane).await?;
        if lot.kind == Kind::Damage {
            self.metrics.quarantined.inc_by(lot.events);
            batch.settled(place..place + lot.events, Outcome::Dead("unreadable in the journal"));
            return Ok(());
        }
        self.metrics.copy_committed(landed.stored, landed.duplicates, landed.elapsed);
        batch.settled(place..place + lot.events, Outcome::Stored);
        Ok(())
    }

    /// What is left to do of the places of a lot that was not landed as it was, the first last.
    async fn cut(
        &self,
        batch: &Batch,
        lot: &Lot<'_>,
        places: Range<u64>,
        unlanded: Unlanded,
        tuples: &[Tuple<'_>],
        lane: &mut Lane,
    ) -> Vec<Range<u64>> {
        let middle = places.start + (places.end - places.start) / 2;
        if let Unlanded::Rejected(rejected) = &unlanded
            && places == (0..lot.events)
        {
            // The code alone: a message may quote the row, and stays with the dead letter.
            let code = rejected.error.sql_state().map_or("", |state| state.code());
            tracing::warn!(rows = lot.events, code, "a row is refused; looking for it");
        }
        match unlanded {
            Unlanded::Rejected(rejected) if places.end - places.start <= 1 => {
                self.bury(batch, lot, places.start, &rejected, tuples, lane).await;
                Vec::new()
            }
            Unlanded::Rejected(_) | Unlanded::TooSlow => vec![middle..places.end, places.start..middle],
            Unlanded::Partly(settled) => {
                let Some(origin) = lot.origin else { return vec![places] };
                let whole = origin.first + places.start..origin.first + places.end;
                for range in settled.iter() {
                    self.metrics.committed.inc_by(range.end - range.start);
                    batch.settled(range.start - origin.first..range.end - origin.first, Outcome::Stored);
                }
                let mut left = unsettled(&whole, &settled);
                left.reverse();
                left.into_iter().map(|range| range.start - origin.first..range.end - origin.first).collect()
            }
        }
    }

    /// Makes a dead letter of the row that stands at `place`.
    async fn bury(
        &self,
        batch: &Batch,
        lot: &Lot<'_>,
        place: u64,
        rejected: &Rejected,
        tuples: &[Tuple<'_>],
        lane: &mut Lane,
    ) {
        let Some(tuple) = tuples.get(place as usize) else { return };
        let error = rejected.error.with_sources();
        let part = lot.part(tuples, &(place..place + 1));
        if part.origin.is_none() {
            self.dead_letters.add_rejected(*tuple, rejected).await;
        } else {
            let row = dead_letters::encode(*tuple, &error, Reason::Rejected, rejected.attempts);
            let letter = Lot::new(Kind::DeadLetters, 1, part.origin, part.keys, vec![&row]);
            // Whatever is wrong is waited out, so all that this can say is that it was there already.
            let _settled = self.lander.land(&letter, lane).await;
            self.metrics.dead_letters.with_label_values(&[Reason::Rejected.name()]).inc();
        }
        self.metrics.dead.inc();
        batch.settled(place..place + 1, Outcome::Dead(&error));
    }
}
