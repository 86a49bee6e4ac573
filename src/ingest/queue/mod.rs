//! The bounded, lock-free queue between the request handlers and the writer.
//!
//! # Constraints
//!
//! * Bounded in events and in bytes. An event counts from its admission until it is stored or dead, so the bounds cover
//!   everything that the service holds, not only the channel's contents.
//! * The admission of one event is two atomic additions and one push. Nothing is locked and, except for the tuple itself,
//!   nothing is allocated.
//! * A full queue means a short wait for capacity ([`Limits::admit_wait`]), itself bounded in bytes, and then a refusal.
//! * A batch is admitted whole or refused whole: all of its capacity is reserved before its chunks are pushed.
//!
//! The consumer is the writer, woken by a [`ThresholdNotify`] at its threshold. With a journal it is the group commit's
//! thread, which blocks until a batch arrives ([`Queue::take_blocking`]).

pub mod commit_waiter;
pub mod occupancy;
pub mod refusal;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::Notify;

use self::commit_waiter::CommitWaiter;
use self::occupancy::{Occupancy, Size, ThresholdNotify};

/// The queue's bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most that is held at once.
    pub capacity: Size,
    /// How long an event waits for capacity.
    pub admit_wait: Duration,
    /// The most bytes that wait for capacity at once.
    pub max_waiting_bytes: u64,
}

/// The queue, shared by all request handlers and the writer.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    sender: Sender<QueuedBatch>,
    receiver: Receiver<QueuedBatch>,
    /// Admitted events that are neither stored nor dead.
    held: Occupancy,
    /// Events in the channel.
    waiting: Occupancy,
    /// Events that wait for capacity.
    not_admitted: Occupancy,
    closed: AtomicBool,
    arrived: ThresholdNotify,
    freed: Notify,
}

/// The queue has no capacity left, or is closed.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Queue {
    /// An empty queue.
    pub fn new(limits: Limits) -> Arc<Self> {
        // One slot for each event. A batch holds at least one event, so a push of an admitted batch always finds a slot.
        let (sender, receiver) = crossbeam_channel::bounded(limits.capacity.events as usize);
        Arc::new(Self {
            limits,
            sender,
            receiver,
            held: Occupancy::default(),
            waiting: Occupancy::default(),
            not_admitted: Occupancy::default(),
            closed: AtomicBool::new(false),
            arrived: ThresholdNotify::default(),
            freed: Notify::new(),
        })
    }

    /// Admitted events that are neither stored nor dead.
    pub fn held(&self) -> Size {
        self.held.get()
    }

    /// Events that wait in the channel for the consumer.
    pub fn waiting(&self) -> Size {
        self.waiting.get()
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Stops admission. Admitted events are still delivered to the consumer.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.arrived.notify();
        // Wakes a consumer that blocks on an empty channel; on a full one none does.
        let nothing = RowChunk { rows: Box::default(), events: 0 };
        let _full = self.sender.try_send(QueuedBatch::one(nothing, None));
        self.freed.notify_waiters();
    }

    /// Whether the queue was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Reserves `size` at once, or refuses.
    pub fn try_reserve(self: &Arc<Self>, size: Size) -> Result<Reservation, Full> {
        if self.is_closed() || !self.held.try_raise(size, self.limits.capacity) {
            return Err(Full);
        }
        Ok(Reservation(HeldCapacity { queue: Arc::clone(self), size }))
    }

    /// Reserves `size`, waiting for it as long as the limits allow.
    pub async fn reserve(self: &Arc<Self>, size: Size) -> Result<Reservation, Full> {
        if let Ok(reservation) = self.try_reserve(size) {
            return Ok(reservation);
        }
        let waiting = Size { events: 1, bytes: size.bytes };
        let limit = Size { events: u64::MAX, bytes: self.limits.max_waiting_bytes };
        if !size.fits(self.limits.capacity) || !self.not_admitted.try_raise(waiting, limit) {
            return Err(Full);
        }
        let _lowered = LowerOnDrop { occupancy: &self.not_admitted, size: waiting };
        let deadline = tokio::time::Instant::now() + self.limits.admit_wait;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Armed before the attempt, so that capacity freed in between is not missed.
            freed.as_mut().enable();
            if let Ok(reservation) = self.try_reserve(size) {
                return Ok(reservation);
            }
            if self.is_closed() || tokio::time::timeout_at(deadline, freed).await.is_err() {
                return Err(Full);
            }
        }
    }

    /// Waits until the waiting events reach `threshold` or the queue is closed; false if `deadline` came first.
    pub(in crate::ingest) async fn wait_for(&self, threshold: Size, deadline: Option<Instant>) -> bool {
        self.arrived.wait_for(threshold, deadline, || self.waiting.get(), || self.is_closed()).await
    }

    /// Takes batches until they hold `max_bytes` or none is left.
    pub(in crate::ingest) fn take(self: &Arc<Self>, max_bytes: u64) -> QueuedBatches {
        self.take_after(None, max_bytes)
    }

    /// As [`Queue::take`], but blocks the thread until a batch arrives, for at most `timeout`.
    pub(in crate::ingest) fn take_blocking(self: &Arc<Self>, max_bytes: u64, timeout: Duration) -> Taken {
        match self.receiver.recv_timeout(timeout) {
            Ok(first) => Taken::Batches(self.take_after(Some(first), max_bytes)),
            Err(_nothing) if self.is_closed() && self.held().events == 0 => Taken::End,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Taken::Nothing,
        }
    }

    fn take_after(self: &Arc<Self>, first: Option<QueuedBatch>, max_bytes: u64) -> QueuedBatches {
        let mut size = first.as_ref().map(QueuedBatch::size).unwrap_or_default();
        let mut batches: Vec<QueuedBatch> = first.into_iter().collect();
        while size.bytes < max_bytes
            && let Ok(batch) = self.receiver.try_recv()
        {
            size += batch.size();
            batches.push(batch);
        }
        self.waiting.lower(size);
        QueuedBatches { batches, held: HeldCapacity { queue: Arc::clone(self), size } }
    }

    fn push(&self, batch: QueuedBatch) {
        let size = batch.size();
        // Raised first, so that the consumer never lowers the count below zero.
        let before = self.waiting.raise(size);
        // The channel has a slot for each admitted event, and this queue owns both of its ends: this cannot fail.
        let sent = self.sender.try_send(batch);
        debug_assert!(sent.is_ok());
        self.arrived.raised(before, before + size);
    }
}

/// The result of [`Queue::take_blocking`].
#[derive(Debug)]
pub(in crate::ingest) enum Taken {
    /// At least one batch.
    Batches(QueuedBatches),
    /// No batch arrived in time.
    Nothing,
    /// The queue is closed, and no admitted event is left.
    End,
}

/// Capacity of the queue; released on drop.
#[derive(Debug)]
struct HeldCapacity {
    queue: Arc<Queue>,
    size: Size,
}

impl Drop for HeldCapacity {
    fn drop(&mut self) {
        if self.size != Size::default() {
            self.queue.held.lower(self.size);
            self.queue.freed.notify_waiters();
        }
    }
}

struct LowerOnDrop<'a> {
    occupancy: &'a Occupancy,
    size: Size,
}

impl Drop for LowerOnDrop<'_> {
    fn drop(&mut self) {
        self.occupancy.lower(self.size);
    }
}

/// Reserved capacity, for the batches it was reserved for.
#[derive(Debug)]
pub struct Reservation(HeldCapacity);

impl Reservation {
    /// Pushes one of the batches that the capacity was reserved for.
    pub fn push(&mut self, batch: QueuedBatch) {
        let size = batch.size();
        debug_assert!(size.fits(self.0.size));
        // From here on the consumer of the batch holds its capacity.
        self.0.size.events -= size.events;
        self.0.size.bytes -= size.bytes;
        self.0.queue.push(batch);
    }
}

/// Batches taken from the queue. They hold their capacity until they are dropped.
#[derive(Debug)]
pub struct QueuedBatches {
    batches: Vec<QueuedBatch>,
    held: HeldCapacity,
}

impl QueuedBatches {
    /// Events and bytes of all batches.
    pub fn size(&self) -> Size {
        self.held.size
    }

    /// The batches.
    pub fn batches(&self) -> &[QueuedBatch] {
        &self.batches
    }

    /// The batches, for stamping their ids.
    pub fn batches_mut(&mut self) -> &mut [QueuedBatch] {
        &mut self.batches
    }

    /// The encoded tuples, one chunk at a time.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.batches.iter().flat_map(QueuedBatch::chunks).map(|chunk| &*chunk.rows)
    }
}

/// Encoded tuples, concatenated (see [`crate::ingest::row`]): one event, or a part of a batch.
#[derive(Debug)]
pub struct RowChunk {
    /// The tuples.
    pub rows: Box<[u8]>,
    /// Their number.
    pub events: u32,
}

impl RowChunk {
    /// Its events and bytes.
    pub fn size(&self) -> Size {
        Size { events: u64::from(self.events), bytes: self.rows.len() as u64 }
    }
}

/// Events that are kept together, or not at all.
#[derive(Debug)]
pub struct QueuedBatch {
    chunks: RowChunks,
    /// What the events' request waits on.
    pub waiter: Option<Arc<CommitWaiter>>,
}

/// A single event, by far the most frequent case, needs no list.
#[derive(Debug)]
enum RowChunks {
    One(RowChunk),
    Many(Box<[RowChunk]>),
}

impl QueuedBatch {
    /// A batch of one chunk.
    pub fn one(chunk: RowChunk, waiter: Option<Arc<CommitWaiter>>) -> Self {
        Self { chunks: RowChunks::One(chunk), waiter }
    }

    /// A batch of several chunks.
    pub fn many(chunks: Vec<RowChunk>, waiter: Option<Arc<CommitWaiter>>) -> Self {
        Self { chunks: RowChunks::Many(chunks.into()), waiter }
    }

    /// Its events and bytes.
    pub fn size(&self) -> Size {
        total(self.chunks())
    }

    /// Its chunks, in order.
    pub fn chunks(&self) -> &[RowChunk] {
        match &self.chunks {
            RowChunks::One(chunk) => std::slice::from_ref(chunk),
            RowChunks::Many(chunks) => chunks,
        }
    }

    /// Its chunks, for stamping their ids.
    pub fn chunks_mut(&mut self) -> &mut [RowChunk] {
        match &mut self.chunks {
            RowChunks::One(chunk) => std::slice::from_mut(chunk),
            RowChunks::Many(chunks) => chunks,
        }
    }
}

/// Events and bytes of all `chunks`.
pub fn total(chunks: &[RowChunk]) -> Size {
    chunks.iter().fold(Size::default(), |sum, chunk| sum + chunk.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(events: u64, bytes: u64) -> Arc<Queue> {
        Queue::new(Limits {
            capacity: Size { events, bytes },
            admit_wait: Duration::from_millis(100),
            max_waiting_bytes: 10,
        })
    }

    fn queued(events: u32, bytes: usize) -> QueuedBatch {
        QueuedBatch::one(RowChunk { rows: vec![0; bytes].into(), events }, None)
    }

    fn one(bytes: u64) -> Size {
        Size { events: 1, bytes }
    }

    #[test]
    fn capacity_is_held_until_the_batch_is_dropped() {
        let queue = queue(10, 10);
        queue.try_reserve(one(6)).unwrap().push(queued(1, 6));
        assert_eq!(queue.try_reserve(one(5)).unwrap_err(), Full);
        let batch = queue.take(100);
        assert_eq!((batch.size(), queue.waiting()), (one(6), Size::default()));
        assert_eq!(queue.try_reserve(one(5)).unwrap_err(), Full);
        drop(batch);
        assert_eq!(queue.held(), Size::default());
        queue.try_reserve(one(10)).unwrap();
        assert_eq!(queue.held(), Size::default(), "an unused reservation releases its capacity");
    }

    #[tokio::test(start_paused = true)]
    async fn admission_waits_for_a_full_queue_within_a_bound_in_bytes() {
        let queue = queue(1, 100);
        queue.try_reserve(one(5)).unwrap().push(queued(1, 5));
        let waiter = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.reserve(one(6)).await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        // 6 bytes wait already and 10 may.
        let started = tokio::time::Instant::now();
        assert!(queue.reserve(one(5)).await.is_err());
        assert_eq!(started.elapsed(), Duration::ZERO);
        drop(queue.take(100));
        assert_eq!(waiter.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_capacity_ends_with_a_refusal() {
        let queue = queue(1, 100);
        queue.try_reserve(one(5)).unwrap().push(queued(1, 5));
        let started = tokio::time::Instant::now();
        assert!(queue.reserve(one(5)).await.is_err());
        assert_eq!(started.elapsed().as_millis() / 10, 10);
        assert_eq!(queue.not_admitted.get(), Size::default());
    }

    #[tokio::test(start_paused = true)]
    async fn the_consumer_is_woken_at_its_threshold_and_not_before() {
        let queue = queue(100, 1000);
        let waiting = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move {
                queue.wait_for(Size { events: 3, bytes: 1000 }, None).await;
            }
        });
        for sent in 0..3 {
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished(), "woken after {sent} events");
            queue.try_reserve(one(1)).unwrap().push(queued(1, 1));
        }
        waiting.await.unwrap();
        assert_eq!(queue.take(2).size(), Size { events: 2, bytes: 2 });
    }
}
