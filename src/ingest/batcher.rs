//! Decides when a COPY starts and what it takes.
//!
//! The first COPY starts when `BATCH_SIZE` events wait or the first of them has waited `FLUSH_INTERVAL_MS`. While
//! another COPY is on its way, the next one starts only when half of `MAX_COPY_BYTES` waits (or after eight intervals,
//! should the other be stuck): a COPY of 5,000 rows costs
//! a third less a row than one of 1,000, so under load batches are left to grow for as long as Postgres is busy
//! anyway, and a second connection is used once there is enough for it to do. A COPY takes all that waits, up to
//! `MAX_COPY_BYTES`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify};

use super::level::Load;
use super::queue::{Batch, Queue};

/// When a COPY starts, and how much it takes.
#[derive(Debug, Clone, Copy)]
pub struct BatchSettings {
    /// Events that start a flush.
    pub batch_size: u64,
    /// The longest that an event waits for others.
    pub flush_interval: Duration,
    /// The most bytes of tuples in one COPY; the last parcel may pass it.
    pub max_copy_bytes: u64,
}

/// Hands out batches, to several lanes in turn.
#[derive(Debug)]
pub struct Batcher {
    settings: BatchSettings,
    queue: Arc<Queue>,
    /// Held by the lane whose turn it is.
    turn: Mutex<()>,
    in_flight: AtomicUsize,
    landed: Notify,
}

impl Batcher {
    /// Batches out of `queue`.
    pub fn new(settings: BatchSettings, queue: Arc<Queue>) -> Self {
        Self { settings, queue, turn: Mutex::new(()), in_flight: AtomicUsize::new(0), landed: Notify::new() }
    }

    /// The next batch, once it is worth a COPY; `None` when the queue is closed and empty.
    pub async fn next(&self) -> Option<Flight<'_>> {
        let _turn = self.turn.lock().await;
        loop {
            self.queue.wait_for(Load { events: 1, bytes: 1 }, None).await;
            let first_waits_since = Instant::now();
            loop {
                let start = Start::when(&self.settings, self.in_flight.load(Ordering::SeqCst));
                let landed = self.landed.notified();
                tokio::select! {
                    () = self.queue.wait_for(start.mark, Some(first_waits_since + start.patience)) => break,
                    // The mark is lower when nothing is in flight any more.
                    () = landed => {}
                }
            }
            let batch = self.queue.take(self.settings.max_copy_bytes);
            if batch.load().events > 0 {
                self.in_flight.fetch_add(1, Ordering::SeqCst);
                return Some(Flight { batch, batcher: self });
            }
            if self.queue.is_closed() && self.queue.waiting().events == 0 {
                return None;
            }
            // Counted but not pushed yet: its producer is between the two.
            tokio::task::yield_now().await;
        }
    }
}

/// While a COPY is on its way, events wait this many flush intervals before time alone starts another.
const PATIENCE_IN_FLIGHT: u32 = 8;

/// What starts a flush: the load that waits, or the time that its first event has waited.
struct Start {
    mark: Load,
    patience: Duration,
}

impl Start {
    fn when(settings: &BatchSettings, in_flight: usize) -> Self {
        if in_flight == 0 {
            let mark = Load { events: settings.batch_size, bytes: settings.max_copy_bytes };
            return Self { mark, patience: settings.flush_interval };
        }
        let mark = Load { events: u64::MAX, bytes: (settings.max_copy_bytes / 2).max(1) };
        Self { mark, patience: settings.flush_interval * PATIENCE_IN_FLIGHT }
    }
}

/// A batch on its way; the next flush may start earlier once it is dropped.
#[derive(Debug)]
pub struct Flight<'a> {
    batch: Batch,
    batcher: &'a Batcher,
}

impl std::ops::Deref for Flight<'_> {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        &self.batch
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.batcher.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.batcher.landed.notify_one();
    }
}
