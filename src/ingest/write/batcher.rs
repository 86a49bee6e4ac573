//! Determines when a COPY starts and what it takes.
//!
//! A COPY starts when `BATCH_SIZE` events wait or the first of them has waited `FLUSH_INTERVAL_MS`. It takes all waiting
//! events, up to `MAX_COPY_BYTES`.
//!
//! A COPY of 5,000 rows costs Postgres a quarter less for each row than one of 1,000, so batches may grow where that pays.
//! While another COPY is in flight, or while `BATCH_SIZE` fills faster than `FLUSH_INTERVAL_MS` COPY after COPY, the next
//! one starts when half of `MAX_COPY_BYTES` waits, or after [`GROWTH_INTERVALS`]. So a second connection is used once there
//! is enough work for it, and a trickle is never held up.
//!
//! While rows are rejected, a batch is limited to `MAX_COPY_BYTES` / [`REJECTING_DIVISOR`].

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::copy::{CopyBatch, Kind, Origin};
use crate::ingest::checkpoint::backlog::{Backlog, JournalBatch};
use crate::ingest::journal::JournalRead;
use crate::ingest::queue::commit_waiter::Outcome;
use crate::ingest::queue::occupancy::Size;
use crate::ingest::queue::{Queue, QueuedBatches};
use crate::ingest::status::{WriterState, WriterStatus};
use crate::waking::WakeBatch;

/// The longest that events wait for a batch to grow, in flush intervals.
const GROWTH_INTERVALS: u32 = 8;
/// A batch with rejected rows takes Postgres several times longer than a clean one. Smaller batches keep every lane busy
/// to the end of a backlog, and the producers of good rows get their commits sooner.
const REJECTING_DIVISOR: u64 = 8;
/// Between two attempts to read a journal that the system does not let us read.
const UNREADABLE_DELAY: Duration = Duration::from_secs(1);

/// When a COPY starts, and how much it takes.
#[derive(Debug, Clone, Copy)]
pub struct BatchSettings {
    /// Events that start a flush.
    pub batch_size: u64,
    /// The longest that an event waits for others.
    pub flush_interval: Duration,
    /// The most bytes of tuples in one COPY; the last chunk may exceed it.
    pub max_copy_bytes: u64,
}

/// Delivers batches to several lanes, one after the other.
#[derive(Debug)]
pub struct Batcher {
    settings: BatchSettings,
    source: Source,
    /// Held by the lane that waits for the next batch.
    taking: tokio::sync::Mutex<()>,
    in_flight: AtomicUsize,
    finished: Notify,
    last_finished: Mutex<Option<Instant>>,
    /// Rows of the last batch were rejected.
    rejecting: AtomicBool,
}

impl Batcher {
    /// A batcher over `source`.
    pub fn new(settings: BatchSettings, source: Source) -> Self {
        Self {
            settings,
            source,
            taking: tokio::sync::Mutex::new(()),
            in_flight: AtomicUsize::new(0),
            finished: Notify::new(),
            last_finished: Mutex::default(),
            rejecting: AtomicBool::new(false),
        }
    }

    /// Records whether rows of a finished batch were rejected.
    pub fn set_rejecting(&self, rejecting: bool) {
        self.rejecting.store(rejecting, Ordering::Relaxed);
    }

    /// The most bytes of the next batch.
    fn max_bytes(&self) -> u64 {
        let max = self.settings.max_copy_bytes;
        if self.rejecting.load(Ordering::Relaxed) { (max / REJECTING_DIVISOR).max(1) } else { max }
    }

    /// Whether COPY follows COPY.
    fn is_busy(&self) -> bool {
        let last = *self.last_finished.lock();
        last.is_some_and(|last| last.elapsed() < self.settings.flush_interval * GROWTH_INTERVALS)
    }

    /// The next batch, once it is worth a COPY; `None` after the last one.
    pub async fn next(&self) -> Option<InFlight<'_>> {
        let _taking = self.taking.lock().await;
        loop {
            self.source.wait_for(Size { events: 1, bytes: 1 }, None).await;
            let first_waits_since = Instant::now();
            let growth_deadline = first_waits_since + self.settings.flush_interval * GROWTH_INTERVALS;
            let max_bytes = self.max_bytes();
            let large = Size { events: u64::MAX, bytes: (max_bytes / 2).max(1) };
            // While a COPY is in flight, wait for a large batch or for the end of that COPY.
            while self.in_flight.load(Ordering::SeqCst) > 0 {
                let finished = self.finished.notified();
                tokio::select! {
                    _filled = self.source.wait_for(large, Some(growth_deadline)) => break,
                    () = finished => {}
                }
            }
            let enough = Size { events: self.settings.batch_size, bytes: max_bytes };
            let flush_deadline = first_waits_since + self.settings.flush_interval;
            let filled = self.source.wait_for(enough, Some(flush_deadline)).await;
            if filled && self.is_busy() && !self.source.is_closed() {
                self.source.wait_for(large, Some(growth_deadline)).await;
            }
            if let Some(batch) = self.source.take(self.max_bytes()).await {
                self.in_flight.fetch_add(1, Ordering::SeqCst);
                return Some(InFlight { batch, batcher: self });
            }
            if self.source.is_closed() && self.source.waiting().events == 0 {
                return None;
            }
            // Counted but not pushed yet: the producer is between the two steps.
            tokio::task::yield_now().await;
        }
    }
}

/// A batch on its way to Postgres. The next flush may start earlier once it is dropped.
#[derive(Debug)]
pub struct InFlight<'a> {
    batch: Batch,
    batcher: &'a Batcher,
}

impl std::ops::Deref for InFlight<'_> {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        &self.batch
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.batcher.in_flight.fetch_sub(1, Ordering::SeqCst);
        *self.batcher.last_finished.lock() = Some(Instant::now());
        self.batcher.finished.notify_one();
    }
}

/// The source of batches.
#[derive(Debug, Clone)]
pub enum Source {
    /// Without a journal.
    Queue(Arc<Queue>),
    /// With a journal. The status reports a journal that cannot be read.
    Journal(Arc<Backlog>, Arc<WriterStatus>),
}

impl Source {
    /// Waits until the waiting events reach `threshold` or the source is closed; false if `deadline` came first.
    async fn wait_for(&self, threshold: Size, deadline: Option<Instant>) -> bool {
        match self {
            Self::Queue(queue) => queue.wait_for(threshold, deadline).await,
            Self::Journal(backlog, _) => backlog.wait_for(threshold, deadline).await,
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Queue(queue) => queue.is_closed(),
            Self::Journal(backlog, _) => backlog.is_closed(),
        }
    }

    fn waiting(&self) -> Size {
        match self {
            Self::Queue(queue) => queue.waiting(),
            Self::Journal(backlog, _) => backlog.waiting(),
        }
    }

    /// Takes waiting events, about `max_bytes`; `None` if there are none.
    async fn take(&self, max_bytes: u64) -> Option<Batch> {
        match self {
            Self::Queue(queue) => {
                let batches = queue.take(max_bytes);
                (batches.size().events > 0).then_some(Batch::Queued(batches))
            }
            Self::Journal(backlog, status) => match backlog.take(max_bytes).await {
                Ok(batch) => batch.map(|batch| Batch::Journaled(batch, Arc::clone(backlog))),
                Err(error) => {
                    let error = crate::db::chain(&error);
                    if status.failed(WriterState::Halted, format!("the journal cannot be read: {error}")) {
                        tracing::error!(error, "the journal cannot be read; retrying each second");
                    }
                    tokio::time::sleep(UNREADABLE_DELAY).await;
                    None
                }
            },
        }
    }
}

/// The batch of one lane.
#[derive(Debug)]
pub enum Batch {
    /// Batches of the queue. They hold their capacity until they are dropped.
    Queued(QueuedBatches),
    /// A part of the journal.
    Journaled(JournalBatch, Arc<Backlog>),
}

impl Batch {
    /// The whole batch, for one COPY.
    pub fn copy_batch(&self) -> CopyBatch<'_> {
        match self {
            Self::Queued(batches) => {
                let mut keys = Vec::new();
                let mut events = 0;
                for batch in batches.batches() {
                    if let Some(waiter) = &batch.waiter {
                        keys.extend(
                            waiter.keys.iter().map(|(index, key)| (events + u64::from(*index), *key)),
                        );
                    }
                    events += batch.size().events;
                }
                CopyBatch::new(Kind::Events, events, None, keys, batches.chunks().collect())
            }
            Self::Journaled(batch, _) => {
                let range = batch.range();
                let (first, events) = (range.start, range.end - range.start);
                let origin = Some(Origin { journal: batch.journal, first });
                match &batch.read {
                    JournalRead::Damaged { .. } => {
                        CopyBatch::new(Kind::Damage, events, origin, Vec::new(), Vec::new())
                    }
                    JournalRead::Rows(rows) => {
                        let keys = rows.keys.iter().map(|(sequence, key)| (sequence - first, *key));
                        CopyBatch::new(Kind::Events, events, origin, keys.collect(), rows.rows().collect())
                    }
                }
            }
        }
    }

    /// Reports settled events: ranges of indices, in order, each with its outcome.
    pub fn settled(&self, outcomes: &[(Range<u64>, Outcome<'_>)]) {
        match self {
            Self::Journaled(batch, backlog) => {
                let first = batch.range().start;
                for (range, outcome) in outcomes {
                    backlog.settled(batch.journal, first + range.start..first + range.end, *outcome);
                }
            }
            Self::Queued(batches) => {
                let mut wake_batch = WakeBatch::default();
                let mut outcomes = outcomes.iter().peekable();
                let mut start = 0;
                for batch in batches.batches() {
                    let end = start + batch.size().events;
                    while let Some((range, outcome)) = outcomes.peek() {
                        let (from, until) = (range.start.max(start), range.end.min(end));
                        if let Some(waiter) = &batch.waiter
                            && from < until
                        {
                            waiter.settle(from - start, until - from, *outcome, &mut wake_batch);
                        }
                        if range.end > end {
                            break;
                        }
                        outcomes.next();
                    }
                    start = end;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ingest::queue::{Limits, Queue};
    use crate::ingest::queue::{QueuedBatch, RowChunk};

    const INTERVAL: Duration = Duration::from_millis(25);

    fn batcher() -> (Arc<Queue>, Batcher) {
        let queue = Queue::new(Limits {
            capacity: Size { events: 100_000, bytes: 1_000_000 },
            admit_wait: Duration::ZERO,
            max_waiting_bytes: 0,
        });
        let settings = BatchSettings { batch_size: 10, flush_interval: INTERVAL, max_copy_bytes: 1000 };
        (Arc::clone(&queue), Batcher::new(settings, Source::Queue(queue)))
    }

    fn push(queue: &Arc<Queue>, events: u64) {
        let mut reservation = queue.try_reserve(Size { events, bytes: events }).unwrap();
        for _ in 0..events {
            reservation.push(QueuedBatch::one(RowChunk { rows: Box::new([0]), events: 1 }, None));
        }
    }

    /// Events of the next batch, if it comes within `timeout`.
    async fn within(batcher: &Batcher, timeout: Duration) -> Option<u64> {
        let batch = tokio::time::timeout(timeout, batcher.next()).await.ok()??;
        Some(batch.copy_batch().events)
    }

    #[tokio::test]
    async fn a_full_batch_starts_at_once_and_a_trickle_after_the_interval() {
        let (queue, batcher) = batcher();
        push(&queue, 10);
        assert_eq!(within(&batcher, Duration::ZERO).await, Some(10));
        push(&queue, 3);
        assert_eq!(within(&batcher, INTERVAL / 5).await, None);
        assert_eq!(
            within(&batcher, INTERVAL * 3).await,
            Some(3),
            "batches that fill slowly do not wait to grow"
        );
    }

    #[tokio::test]
    async fn batches_grow_while_copy_follows_copy() {
        let (queue, batcher) = batcher();
        push(&queue, 10);
        assert_eq!(within(&batcher, Duration::ZERO).await, Some(10));
        push(&queue, 20);
        assert_eq!(within(&batcher, INTERVAL).await, None);
        push(&queue, 480);
        assert_eq!(within(&batcher, Duration::ZERO).await, Some(500), "half of MAX_COPY_BYTES is enough");
        push(&queue, 20);
        assert_eq!(
            within(&batcher, INTERVAL * (GROWTH_INTERVALS + 4)).await,
            Some(20),
            "growth has a deadline"
        );
    }

    #[tokio::test]
    async fn a_second_lane_starts_once_there_is_enough_work_for_it() {
        let (queue, batcher) = batcher();
        push(&queue, 10);
        let first = batcher.next().await.unwrap();
        push(&queue, 100);
        assert_eq!(within(&batcher, INTERVAL).await, None);
        push(&queue, 400);
        assert_eq!(within(&batcher, Duration::ZERO).await, Some(500));
        push(&queue, 5);
        let second = batcher.next();
        tokio::pin!(second);
        assert!(tokio::time::timeout(INTERVAL * 2, &mut second).await.is_err());
        drop(first);
        assert_eq!(second.await.unwrap().copy_batch().events, 5);
    }

    #[tokio::test]
    async fn batches_are_smaller_while_rows_are_rejected() {
        let (queue, batcher) = batcher();
        push(&queue, 2000);
        batcher.set_rejecting(true);
        assert_eq!(within(&batcher, Duration::ZERO).await, Some(1000 / REJECTING_DIVISOR));
        batcher.set_rejecting(false);
        assert_eq!(within(&batcher, Duration::ZERO).await, Some(1000));
    }

    #[tokio::test]
    async fn a_closed_queue_is_emptied_without_waiting() {
        let (queue, batcher) = batcher();
        push(&queue, 1500);
        queue.close();
        assert_eq!(within(&batcher, Duration::ZERO).await, Some(1000));
        assert_eq!(within(&batcher, Duration::ZERO).await, Some(500));
        assert!(batcher.next().await.is_none());
    }
}
