//! Dead letters: events that could not become rows of `requests`, kept with the reason.
//!
//! A row that Postgres rejects becomes a dead letter in the transaction that stores the rest of its batch.
//!
//! Overloads (events refused with 503) have a bounded queue of their own, flushed every `DEAD_FLUSH_INTERVAL_MS`. When it
//! is full they are dropped, counted and logged.
//!
//! An operator lists and discards dead letters through [`DeadLetterStore`], which also stores them again (`redrive`).

mod redrive;
mod store;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use self::redrive::{Redriven, Selection};
pub use self::store::{Body, Cursor, DeadLetter, DeadLetterStore, Filter};
use crate::bisect;
pub use crate::ingest::event::dead_letter::Reason;
use crate::ingest::event::dead_letter::encode_overload;
use crate::ingest::event::row::Tuple;
use crate::ingest::queue::Queue;
use crate::ingest::queue::occupancy::Size;
use crate::ingest::queue::{QueuedBatch, RowChunk};
use crate::ingest::write::copy::{CopyBatch, Kind};
use crate::ingest::write::copy_writer::{CopyWriter, Lane, WriteError};
use crate::observe::Metrics;

/// The queue of overloads, for admission.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
}

impl DeadLetters {
    /// A handle to `queue`.
    pub fn new(queue: Arc<Queue>, metrics: Arc<Metrics>) -> Self {
        Self { queue, metrics }
    }

    /// Overloads that are not stored yet.
    pub fn held(&self) -> Size {
        self.queue.held()
    }

    /// Keeps a refused event with its error, if the queue has capacity.
    pub fn add_overload(&self, tuple: Tuple<'_>, error: &str) {
        let batch = queued(encode_overload(tuple, error));
        match self.queue.try_reserve(batch.size()) {
            Ok(mut reservation) => reservation.push(batch),
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

fn queued(row: Vec<u8>) -> QueuedBatch {
    QueuedBatch::one(RowChunk { rows: row.into(), events: 1 }, None)
}

/// The task that stores overloads.
#[derive(Debug)]
pub struct DeadLetterWriter {
    /// The overloads.
    pub queue: Arc<Queue>,
    /// Stores them.
    pub copy_writer: CopyWriter,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Between two flushes.
    pub interval: Duration,
    /// The most bytes in one COPY.
    pub max_copy_bytes: u64,
}

impl DeadLetterWriter {
    /// Flushes the queue every interval until `stop` is cancelled and the queue is empty.
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

    /// Stores one batch; false if the queue was empty.
    async fn flush(&self) -> bool {
        let batches = self.queue.take(self.max_copy_bytes);
        if batches.size().events == 0 {
            return false;
        }
        let all: Vec<&[u8]> = batches.chunks().collect();
        let mut lane = Lane::new(0);
        let mut pending: Vec<Range<u64>> = std::iter::once(0..all.len() as u64).collect();
        while let Some(range) = pending.pop() {
            let rows = all.get(range.start as usize..range.end as usize).unwrap_or_default();
            let batch = CopyBatch::new(Kind::DeadLetters, rows.len() as u64, None, Vec::new(), rows.to_vec());
            match (self.copy_writer.write(&batch, &mut lane).await, bisect::halves(&range)) {
                (Ok(_written), _) => {
                    let stored = self.metrics.dead_letters.with_label_values(&[Reason::Overload.name()]);
                    stored.inc_by(rows.len() as u64);
                }
                (Err(_), Some([left, right])) => pending.extend([right, left]),
                (Err(WriteError::Rejected(rejected)), None) => {
                    let error = rejected.error.with_sources();
                    self.metrics.dead_letters_dropped.with_label_values(&["refused"]).inc();
                    tracing::error!(error, "Postgres rejects a dead letter; it is lost");
                }
                (Err(_), None) => pending.push(range),
            }
        }
        true
    }
}
