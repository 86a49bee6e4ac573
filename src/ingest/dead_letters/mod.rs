//! What could not become a row of `requests`, kept in `dead_letters` with the reason.
//!
//! A row that Postgres rejects becomes a dead letter in the transaction that stores the rest of its batch.
//!
//! The overloads, whose clients were told 503, have a bounded queue of their own, flushed every
//! `DEAD_FLUSH_INTERVAL_MS`. They are dropped when it is full, counted and logged.
//!
//! A dead letter is the event's own tuple with four more fields behind it.

mod redrive;
mod store;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use self::redrive::{Redriven, Selection};
pub use self::store::{Body, Cursor, DeadLetter, DeadLetterStore, Filter};
pub use crate::ingest::event::dead_letter::Reason;
use crate::ingest::event::dead_letter::encode_overload;
use crate::ingest::event::row::Tuple;
use crate::ingest::queue::Queue;
use crate::ingest::queue::occupancy::Size;
use crate::ingest::queue::{QueuedBatch, RowChunk};
use crate::ingest::write::copy::{CopyBatch, Kind};
use crate::ingest::write::copy_writer::{CopyWriter, Lane, WriteError};
use crate::observe::Metrics;

/// Takes dead letters.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
}

impl DeadLetters {
    /// Puts them into `queue`.
    pub fn new(queue: Arc<Queue>, metrics: Arc<Metrics>) -> Self {
        Self { queue, metrics }
    }

    /// What waits to be stored.
    pub fn held(&self) -> Size {
        self.queue.held()
    }

    /// Keeps an event that was refused, with the reason why, if there is room.
    pub fn add_overload(&self, tuple: Tuple<'_>, error: &str) {
        let parcel = parcel(encode_overload(tuple, error));
        match self.queue.try_reserve(parcel.load()) {
            Ok(mut room) => room.push(parcel),
            Err(_full) => self.dropped(),
        }
    }

    fn dropped(&self) {
        let dropped = self.metrics.dead_letters_dropped.with_label_values(&[Reason::Overload.name()]);
        dropped.inc();
        let total = dropped.get();
        if total.is_power_of_two() {
            tracing::warn!(total, "the dead-letter queue is full; dead letters are dropped");
        }
    }
}

fn parcel(row: Vec<u8>) -> QueuedBatch {
    QueuedBatch::one(RowChunk { rows: row.into(), events: 1 }, None)
}

/// Stores dead letters.
#[derive(Debug)]
pub struct DeadLetterWriter {
    /// Where they wait.
    pub queue: Arc<Queue>,
    /// Stores them.
    pub lander: CopyWriter,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// How often they are stored.
    pub interval: Duration,
    /// The most bytes in one COPY.
    pub max_copy_bytes: u64,
}

impl DeadLetterWriter {
    /// Stores what waits, every interval, until `stop` is cancelled and nothing waits any more.
    pub async fn run(self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(self.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stopping = stop.is_cancelled();
            while self.flush().await {}
            if stopping {
                return;
            }
            tokio::select! {
                _ = interval.tick() => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Stores one batch; false when nothing waited.
    async fn flush(&self) -> bool {
        let batch = self.queue.take(self.max_copy_bytes);
        if batch.load().events == 0 {
            return false;
        }
        let rows: Vec<&[u8]> = batch.chunks().collect();
        let mut lane = Lane::new(0);
        let mut pending = vec![&rows[..]];
        while let Some(rows) = pending.pop() {
            let lot = CopyBatch::new(Kind::DeadLetters, rows.len() as u64, None, Vec::new(), rows.to_vec());
            match self.lander.land(&lot, &mut lane).await {
                Ok(_landed) => {
                    let stored = self.metrics.dead_letters.with_label_values(&[Reason::Overload.name()]);
                    stored.inc_by(rows.len() as u64);
                }
                Err(WriteError::Rejected(rejected)) if rows.len() <= 1 => {
                    let error = rejected.error.with_sources();
                    self.metrics.dead_letters_dropped.with_label_values(&["refused"]).inc();
                    tracing::error!(error, "a dead letter is refused by Postgres and lost");
                }
                Err(_cut_up) => {
                    let (left, right) = rows.split_at(rows.len() / 2);
                    pending.extend([right, left]);
                }
            }
        }
        true
    }
}
