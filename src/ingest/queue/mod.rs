//! The bounded, lock-free queue between the request handlers and the writer.
//!
//! # Constraints
//!
//! * Bounded in events and in bytes. Both bounds cover an event from its admission until it is stored or dead, so they
//!   bound what the service holds, not only what waits in the channel.
//! * Admission of one event is two atomic additions and one push; nothing is locked and, but for the tuple itself,
//!   nothing is allocated.
//! * Full means a short wait for room ([`Limits::admit_wait`]), itself bounded in bytes, and then a refusal.
//! * A batch is admitted whole or refused whole: room for all of it is taken first, then its batches are pushed.
//!
//! Its consumer is the writer, woken by a `ThresholdNotify` when enough waits, or with a journal the thread that commits groups
//! to it, which blocks until something comes (`take_blocking`).

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

/// How much the queue takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most that is held at once.
    pub capacity: Size,
    /// How long an event waits for room.
    pub admit_wait: Duration,
    /// The most bytes that wait for room at once.
    pub max_waiting_bytes: u64,
}

/// The queue; shared by all request handlers and the writer.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    sender: Sender<QueuedBatch>,
    receiver: Receiver<QueuedBatch>,
    /// What is held: waiting in the channel or on its way to Postgres.
    held: Occupancy,
    /// What waits in the channel.
    waiting: Occupancy,
    /// What waits for room.
    outside: Occupancy,
    closed: AtomicBool,
    arrived: ThresholdNotify,
    room: Notify,
}

/// There was no room, or the queue takes nothing any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Queue {
    /// An empty queue.
    pub fn new(limits: Limits) -> Arc<Self> {
        // One slot an event: a queued holds at least one, so a push of what was admitted always finds a slot.
        let (sender, receiver) = crossbeam_channel::bounded(limits.capacity.events as usize);
        Arc::new(Self {
            limits,
            sender,
            receiver,
            held: Occupancy::default(),
            waiting: Occupancy::default(),
            outside: Occupancy::default(),
            closed: AtomicBool::new(false),
            arrived: ThresholdNotify::default(),
            room: Notify::new(),
        })
    }

    /// What is held: admitted and neither stored nor dead.
    pub fn held(&self) -> Size {
        self.held.get()
    }

    /// What waits in the channel for the writer.
    pub fn waiting(&self) -> Size {
        self.waiting.get()
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes nothing more; what was admitted is still handed to the writer.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.arrived.ring();
        // Whoever blocks on an empty channel gets an empty queued; if it is full, nobody does.
        let nothing = RowChunk { rows: Box::default(), events: 0 };
        let _full = self.sender.try_send(QueuedBatch::one(nothing, None));
        self.room.notify_waiters();
    }

    /// Whether the queue was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Takes room for `load` at once, or refuses.
    pub fn try_reserve(self: &Arc<Self>, load: Size) -> Result<Reservation, Full> {
        if self.is_closed() || !self.held.try_raise(load, self.limits.capacity) {
            return Err(Full);
        }
        Ok(Reservation(Hold { queue: Arc::clone(self), load }))
    }

    /// Takes room for `load`, waiting for it as long as the limits say.
    pub async fn reserve(self: &Arc<Self>, load: Size) -> Result<Reservation, Full> {
        if let Ok(reservation) = self.try_reserve(load) {
            return Ok(reservation);
        }
        let outside = Size { events: 1, bytes: load.bytes };
        let limit = Size { events: u64::MAX, bytes: self.limits.max_waiting_bytes };
        if !load.fits(self.limits.capacity) || !self.outside.try_raise(outside, limit) {
            return Err(Full);
        }
        let _left = LowerOnDrop { level: &self.outside, load: outside };
        let deadline = tokio::time::Instant::now() + self.limits.admit_wait;
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Armed before the look, so that room made in between is not missed.
            room.as_mut().enable();
            if let Ok(reservation) = self.try_reserve(load) {
                return Ok(reservation);
            }
            if self.is_closed() || tokio::time::timeout_at(deadline, room).await.is_err() {
                return Err(Full);
            }
        }
    }

    /// Waits until the waiting load reaches `mark` or the queue is closed; false if `deadline` came first.
    pub(in crate::ingest) async fn wait_for(&self, mark: Size, deadline: Option<Instant>) -> bool {
        self.arrived.wait_for(mark, deadline, || self.waiting.get(), || self.is_closed()).await
    }

    /// Takes batches until `max_bytes` are reached or none waits.
    pub(in crate::ingest) fn take(self: &Arc<Self>, max_bytes: u64) -> Batch {
        self.take_behind(None, max_bytes)
    }

    /// As [`Queue::take`], but blocks the thread until a queued comes, for at most `patience`.
    pub(in crate::ingest) fn take_blocking(self: &Arc<Self>, max_bytes: u64, patience: Duration) -> Taken {
        match self.receiver.recv_timeout(patience) {
            Ok(first) => Taken::Batch(self.take_behind(Some(first), max_bytes)),
            Err(_nothing) if self.is_closed() && self.held().events == 0 => Taken::End,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Taken::Nothing,
        }
    }

    fn take_behind(self: &Arc<Self>, first: Option<QueuedBatch>, max_bytes: u64) -> Batch {
        let mut load = first.as_ref().map(QueuedBatch::load).unwrap_or_default();
        let mut batches: Vec<QueuedBatch> = first.into_iter().collect();
        while load.bytes < max_bytes
            && let Ok(queued) = self.receiver.try_recv()
        {
            load += queued.load();
            batches.push(queued);
        }
        self.waiting.lower(load);
        Batch { batches, hold: Hold { queue: Arc::clone(self), load } }
    }

    fn push(&self, queued: QueuedBatch) {
        let load = queued.load();
        // Raised first, so that whoever takes the queued never lowers the level below zero.
        let before = self.waiting.raise(load);
        // The channel has a slot for each admitted event and both its ends live here: this cannot fail.
        let sent = self.sender.try_send(queued);
        debug_assert!(sent.is_ok());
        self.arrived.rose(before, before + load);
    }
}

/// What [`Queue::take_blocking`] came back with.
#[derive(Debug)]
pub(in crate::ingest) enum Taken {
    /// Parcels.
    Batch(Batch),
    /// Nothing came in time.
    Nothing,
    /// The queue is closed, and nothing is admitted any more.
    End,
}

/// Room that was taken; given back when dropped.
#[derive(Debug)]
struct Hold {
    queue: Arc<Queue>,
    load: Size,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.load != Size::default() {
            self.queue.held.lower(self.load);
            self.queue.room.notify_waiters();
        }
    }
}

struct LowerOnDrop<'a> {
    level: &'a Occupancy,
    load: Size,
}

impl Drop for LowerOnDrop<'_> {
    fn drop(&mut self) {
        self.level.lower(self.load);
    }
}

/// Room in the queue, to be filled with the batches it was taken for.
#[derive(Debug)]
pub struct Reservation(Hold);

impl Reservation {
    /// Pushes one queued of those that the room was taken for.
    pub fn push(&mut self, queued: QueuedBatch) {
        let load = queued.load();
        debug_assert!(load.fits(self.0.load));
        // From here on the batch that takes the queued holds its room.
        self.0.load.events -= load.events;
        self.0.load.bytes -= load.bytes;
        self.0.queue.push(queued);
    }
}

/// What one COPY takes. Its room in the queue is given back when it is dropped.
#[derive(Debug)]
pub struct Batch {
    batches: Vec<QueuedBatch>,
    hold: Hold,
}

impl Batch {
    /// Events and bytes.
    pub fn load(&self) -> Size {
        self.hold.load
    }

    /// The batches.
    pub fn batches(&self) -> &[QueuedBatch] {
        &self.batches
    }

    /// The batches, for their ids to be filled in.
    pub fn batches_mut(&mut self) -> &mut [QueuedBatch] {
        &mut self.batches
    }

    /// The encoded tuples, a chunk at a time.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.batches.iter().flat_map(QueuedBatch::chunks).map(|chunk| &*chunk.rows)
    }
}

/// Encoded tuples, one behind the other (see [`crate::ingest::row`]): one event, or a part of a batch.
#[derive(Debug)]
pub struct RowChunk {
    /// The tuples.
    pub rows: Box<[u8]>,
    /// How many they are.
    pub events: u32,
}

impl RowChunk {
    /// Its events and bytes.
    pub fn load(&self) -> Size {
        Size { events: u64::from(self.events), bytes: self.rows.len() as u64 }
    }
}

/// Events that are kept together, or not at all.
#[derive(Debug)]
pub struct QueuedBatch {
    chunks: RowChunks,
    /// What whoever sent them waits on.
    pub waiter: Option<Arc<CommitWaiter>>,
}

/// A single event, which is by far the most frequent queued, needs no list.
#[derive(Debug)]
enum RowChunks {
    One(RowChunk),
    Many(Box<[RowChunk]>),
}

impl QueuedBatch {
    /// One chunk.
    pub fn one(chunk: RowChunk, waiter: Option<Arc<CommitWaiter>>) -> Self {
        Self { chunks: RowChunks::One(chunk), waiter }
    }

    /// A whole batch.
    pub fn many(chunks: Vec<RowChunk>, waiter: Option<Arc<CommitWaiter>>) -> Self {
        Self { chunks: RowChunks::Many(chunks.into()), waiter }
    }

    /// Its events and bytes.
    pub fn load(&self) -> Size {
        total(self.chunks())
    }

    /// Its chunks, in order.
    pub fn chunks(&self) -> &[RowChunk] {
        match &self.chunks {
            RowChunks::One(chunk) => std::slice::from_ref(chunk),
            RowChunks::Many(chunks) => chunks,
        }
    }

    /// Its chunks, for their ids to be filled in.
    pub fn chunks_mut(&mut self) -> &mut [RowChunk] {
        match &mut self.chunks {
            RowChunks::One(chunk) => std::slice::from_mut(chunk),
            RowChunks::Many(chunks) => chunks,
        }
    }
}

/// Events and bytes of all `chunks`.
pub fn total(chunks: &[RowChunk]) -> Size {
    chunks.iter().fold(Size::default(), |sum, chunk| sum + chunk.load())
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
    fn room_is_held_until_the_batch_is_dropped() {
        let queue = queue(10, 10);
        queue.try_reserve(one(6)).unwrap().push(queued(1, 6));
        assert_eq!(queue.try_reserve(one(5)).unwrap_err(), Full);
        let batch = queue.take(100);
        assert_eq!((batch.load(), queue.waiting()), (one(6), Size::default()));
        assert_eq!(queue.try_reserve(one(5)).unwrap_err(), Full);
        drop(batch);
        assert_eq!(queue.held(), Size::default());
        queue.try_reserve(one(10)).unwrap();
        assert_eq!(queue.held(), Size::default(), "an unused reservation gives its room back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_is_waited_for_and_the_waiting_is_bounded_in_bytes() {
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
    async fn waiting_ends_with_a_refusal() {
        let queue = queue(1, 100);
        queue.try_reserve(one(5)).unwrap().push(queued(1, 5));
        let started = tokio::time::Instant::now();
        assert!(queue.reserve(one(5)).await.is_err());
        assert_eq!(started.elapsed().as_millis() / 10, 10);
        assert_eq!(queue.outside.get(), Size::default());
    }

    #[tokio::test(start_paused = true)]
    async fn the_consumer_is_woken_at_its_mark_and_not_before() {
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
        assert_eq!(queue.take(2).load(), Size { events: 2, bytes: 2 });
    }
}
