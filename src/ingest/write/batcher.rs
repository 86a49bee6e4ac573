//! Decides when a COPY starts and what it takes.
//!
//! A COPY starts when `BATCH_SIZE` events wait or the first of them has waited `FLUSH_INTERVAL_MS`, and takes all that
//! waits, up to `MAX_COPY_BYTES`.
//!
//! A COPY of 5,000 rows costs Postgres a quarter less a row than one of 1,000, so batches are left to grow where there is
//! something to gain. While another COPY is on its way, or when `BATCH_SIZE` fills faster than `FLUSH_INTERVAL_MS` COPY
//! after COPY, the next one starts when half of `MAX_COPY_BYTES` waits, or after [`PATIENCE`] intervals. So a second
//! connection is used once there is enough for it to do, and a trickle is never held up.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify};

use super::copy::{CopyBatch, Kind, Origin};
use crate::ingest::checkpoint::backlog::{Backlog, Portion};
use crate::ingest::journal::Piece;
use crate::ingest::queue::commit_waiter::{Outcome, WakeBatch};
use crate::ingest::queue::occupancy::Size;
use crate::ingest::queue::{self, Queue};
use crate::ingest::status::{WriterState, WriterStatus};

/// When a COPY starts, and how much it takes.
#[derive(Debug, Clone, Copy)]
pub struct BatchSettings {
    /// Events that start a flush.
    pub batch_size: u64,
    /// The longest that an event waits for others.
    pub flush_interval: Duration,
    /// The most bytes of tuples in one COPY; the last queued may pass it.
    pub max_copy_bytes: u64,
}

/// Hands out batches, to several lanes in turn.
#[derive(Debug)]
pub struct Batcher {
    settings: BatchSettings,
    source: Source,
    /// Held by the lane whose turn it is.
    turn: Mutex<()>,
    in_flight: AtomicUsize,
    landed: Notify,
    last_landed: std::sync::Mutex<Option<Instant>>,
}

impl Batcher {
    /// Batches out of `source`.
    pub fn new(settings: BatchSettings, source: Source) -> Self {
        Self {
            settings,
            source,
            turn: Mutex::new(()),
            in_flight: AtomicUsize::new(0),
            landed: Notify::new(),
            last_landed: std::sync::Mutex::default(),
        }
    }

    /// Whether COPY follows COPY.
    fn landed_lately(&self) -> bool {
        let last = *self.last_landed.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < self.settings.flush_interval * PATIENCE)
    }

    /// The next batch, once it is worth a COPY; `None` when nothing is left and nothing more comes.
    pub async fn next(&self) -> Option<Flight<'_>> {
        let _turn = self.turn.lock().await;
        loop {
            self.source.wait_for(Size { events: 1, bytes: 1 }, None).await;
            let first_waits_since = Instant::now();
            let patient = first_waits_since + self.settings.flush_interval * PATIENCE;
            let plenty = Size { events: u64::MAX, bytes: (self.settings.max_copy_bytes / 2).max(1) };
            // A COPY is on its way: wait for plenty, or for it to land.
            while self.in_flight.load(Ordering::SeqCst) > 0 {
                let landed = self.landed.notified();
                tokio::select! {
                    _filled = self.source.wait_for(plenty, Some(patient)) => break,
                    () = landed => {}
                }
            }
            let enough = Size { events: self.settings.batch_size, bytes: self.settings.max_copy_bytes };
            let due = first_waits_since + self.settings.flush_interval;
            let filled = self.source.wait_for(enough, Some(due)).await;
            if filled && self.landed_lately() && !self.source.is_closed() {
                self.source.wait_for(plenty, Some(patient)).await;
            }
            if let Some(batch) = self.source.take(self.settings.max_copy_bytes).await {
                self.in_flight.fetch_add(1, Ordering::SeqCst);
                return Some(Flight { batch, batcher: self });
            }
            if self.source.is_closed() && self.source.waiting().events == 0 {
                return None;
            }
            // Counted but not pushed yet: its producer is between the two.
            tokio::task::yield_now().await;
        }
    }
}

/// The longest that events wait for a batch to grow, in flush intervals.
const PATIENCE: u32 = 8;

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
        *self.batcher.last_landed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.batcher.landed.notify_one();
    }
}

/// A source of batches.
#[derive(Debug, Clone)]
pub enum Source {
    /// Without a journal.
    Queue(Arc<Queue>),
    /// With one, and where to say that it cannot be read.
    Journal(Arc<Backlog>, Arc<WriterStatus>),
}

impl Source {
    /// Waits until what waits reaches `mark` or nothing more comes; false if `deadline` came first.
    pub(in crate::ingest) async fn wait_for(&self, mark: Size, deadline: Option<Instant>) -> bool {
        match self {
            Self::Queue(queue) => queue.wait_for(mark, deadline).await,
            Self::Journal(backlog, _) => backlog.wait_for(mark, deadline).await,
        }
    }

    /// Whether nothing more comes.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Queue(queue) => queue.is_closed(),
            Self::Journal(backlog, _) => backlog.is_closed(),
        }
    }

    /// What waits to be taken.
    pub fn waiting(&self) -> Size {
        match self {
            Self::Queue(queue) => queue.waiting(),
            Self::Journal(backlog, _) => backlog.waiting(),
        }
    }

    /// Takes what waits, about `max_bytes` of it; `None` if nothing does.
    pub(in crate::ingest) async fn take(&self, max_bytes: u64) -> Option<Batch> {
        match self {
            Self::Queue(queue) => {
                let batch = queue.take(max_bytes);
                (batch.load().events > 0).then_some(Batch::Queued(batch))
            }
            Self::Journal(backlog, status) => match backlog.take(max_bytes).await {
                Ok(portion) => portion.map(|portion| Batch::Journaled(portion, Arc::clone(backlog))),
                Err(error) => {
                    let error = crate::db::chain(&error);
                    if status.failed(WriterState::Halted, format!("the journal cannot be read: {error}")) {
                        tracing::error!(error, "the journal cannot be read; trying again each second");
                    }
                    tokio::time::sleep(UNREADABLE_DELAY).await;
                    None
                }
            },
        }
    }
}

/// Between two tries to read a journal that the system does not let us read.
const UNREADABLE_DELAY: Duration = Duration::from_secs(1);

/// What one lane works on.
#[derive(Debug)]
pub enum Batch {
    /// Parcels; their room in the queue is given back when they are dropped.
    Queued(queue::Batch),
    /// A part of the journal.
    Journaled(Portion, Arc<Backlog>),
}

impl Batch {
    /// The lot that all of it makes.
    pub fn lot(&self) -> CopyBatch<'_> {
        match self {
            Self::Queued(batch) => {
                let mut keys = Vec::new();
                let mut place = 0;
                for queued in batch.batches() {
                    if let Some(waiter) = &queued.waiter {
                        keys.extend(waiter.keys.iter().map(|(index, key)| (place + u64::from(*index), *key)));
                    }
                    place += queued.load().events;
                }
                CopyBatch::new(Kind::Events, place, None, keys, batch.chunks().collect())
            }
            Self::Journaled(portion, _) => {
                let range = portion.range();
                let (first, events) = (range.start, range.end - range.start);
                let origin = Some(Origin { journal: portion.journal, first });
                match &portion.piece {
                    Piece::Damaged { .. } => {
                        CopyBatch::new(Kind::Damage, events, origin, Vec::new(), Vec::new())
                    }
                    Piece::Rows(chunk) => {
                        let keys = chunk.keys.iter().map(|(sequence, key)| (sequence - first, *key));
                        let chunks = chunk.chunks.iter();
                        let chunks = chunks.map(|range| chunk.buffer.get(range.clone()).unwrap_or_default());
                        CopyBatch::new(Kind::Events, events, origin, keys.collect(), chunks.collect())
                    }
                }
            }
        }
    }

    /// Events are settled: runs of places, in order, each with its outcome.
    pub fn settled(&self, outcomes: &[(Range<u64>, Outcome<'_>)]) {
        match self {
            Self::Journaled(portion, backlog) => {
                let first = portion.range().start;
                for (places, outcome) in outcomes {
                    backlog.settled(portion.journal, first + places.start..first + places.end, *outcome);
                }
            }
            Self::Queued(batch) => {
                let mut wakeups = WakeBatch::default();
                let mut outcomes = outcomes.iter().peekable();
                let mut start = 0;
                for queued in batch.batches() {
                    let end = start + queued.load().events;
                    while let Some((places, outcome)) = outcomes.peek() {
                        let (from, until) = (places.start.max(start), places.end.min(end));
                        if let Some(waiter) = &queued.waiter
                            && from < until
                        {
                            waiter.settle(from - start, until - from, *outcome, &mut wakeups);
                        }
                        if places.end > end {
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
    use std::sync::Arc;

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
        let mut room = queue.try_reserve(Size { events, bytes: events }).unwrap();
        for _ in 0..events {
            room.push(QueuedBatch::one(RowChunk { rows: Box::new([0]), events: 1 }, None));
        }
    }

    /// Events of the next batch, if it comes within `patience`.
    async fn within(batcher: &Batcher, patience: Duration) -> Option<u64> {
        let flight = tokio::time::timeout(patience, batcher.next()).await.ok()??;
        Some(flight.lot().events)
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
    async fn batches_that_fill_one_upon_the_other_are_left_to_grow() {
        let (queue, batcher) = batcher();
        push(&queue, 10);
        assert_eq!(within(&batcher, Duration::ZERO).await, Some(10));
        push(&queue, 20);
        assert_eq!(within(&batcher, INTERVAL).await, None);
        push(&queue, 480);
        assert_eq!(
            within(&batcher, Duration::ZERO).await,
            Some(500),
            "half of what a COPY may take is plenty"
        );
        push(&queue, 20);
        assert_eq!(within(&batcher, INTERVAL * (PATIENCE + 4)).await, Some(20), "patience has an end");
    }

    #[tokio::test]
    async fn a_second_lane_starts_when_there_is_plenty_for_it() {
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
        assert_eq!(second.await.unwrap().lot().events, 5);
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
