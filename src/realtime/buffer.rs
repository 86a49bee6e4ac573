//! A subscriber's buffer: waiting changes, bounded in number and in bytes, and chunks on their way to the socket.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::memory::{MemoryBudget, MemoryPermit};
use super::{Change, Position};
use crate::config::SubscriberLimits;

/// The reason for which a subscriber was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Its buffer, or the memory of all subscribers, is full.
    Slow,
    /// Changes were deleted before the feed had read them.
    Behind,
}

impl Dropped {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Behind => "behind",
        }
    }
}

/// An item of a buffer.
#[derive(Debug)]
pub(super) enum Item {
    /// A change.
    Change(Arc<Change>),
    /// Requested topics have joined: their changes behind this position follow. `None`: the feed could not be read, and they have not.
    Joined(Option<Box<Position>>),
}

/// The buffer of a subscriber.
#[derive(Debug)]
pub(super) struct Buffer {
    waiting: Mutex<Waiting>,
    filled: Notify,
    budget: MemoryBudget,
    /// The socket took a chunk.
    taken: Notify,
}

#[derive(Debug)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    /// Bytes of chunks that the socket has not taken.
    in_flight: usize,
    /// The last time at which the socket took a chunk.
    progressed: Instant,
    dropped: Option<Dropped>,
}

/// The memory of a chunk on its way to the socket.
#[derive(Debug)]
struct InFlight {
    buffer: Arc<Buffer>,
    _permit: MemoryPermit,
    bytes: usize,
}

/// A chunk that counts as held until the connection has written it.
struct HeldChunk {
    chunk: Bytes,
    _in_flight: InFlight,
}

impl AsRef<[u8]> for HeldChunk {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut waiting = self.buffer.waiting();
        waiting.in_flight -= self.bytes;
        waiting.progressed = Instant::now();
        if waiting.dropped.is_some() {
            self.buffer.budget.left(self.bytes);
        }
        drop(waiting);
        self.buffer.taken.notify_one();
    }
}

impl Waiting {
    /// Drops the subscriber: nothing waits any more.
    fn end(&mut self, why: Dropped, budget: &MemoryBudget) {
        budget.leave(self.in_flight);
        self.items.clear();
        self.bytes = 0;
        self.dropped = Some(why);
    }
}

impl Buffer {
    /// An empty buffer.
    pub(super) fn new(budget: &MemoryBudget) -> Self {
        let waiting = Waiting {
            items: VecDeque::new(),
            bytes: 0,
            in_flight: 0,
            progressed: Instant::now(),
            dropped: None,
        };
        let (filled, taken) = (Notify::new(), Notify::new());
        Self { waiting: Mutex::new(waiting), filled, budget: budget.clone(), taken }
    }

    /// A chunk that counts as held until the connection has written it, if the budget allows it.
    pub(super) fn try_hold(self: &Arc<Self>, chunk: &Bytes) -> Option<Bytes> {
        let bytes = chunk.len();
        let permit = self.budget.try_hold(bytes)?;
        let mut waiting = self.waiting();
        if waiting.dropped.is_some() {
            self.budget.leave(bytes);
        }
        waiting.in_flight += bytes;
        drop(waiting);
        let in_flight = InFlight { buffer: Arc::clone(self), _permit: permit, bytes };
        Some(Bytes::from_owner(HeldChunk { chunk: chunk.clone(), _in_flight: in_flight }))
    }

    /// Whether a chunk is on its way to the socket.
    pub(super) fn is_in_flight(&self) -> bool {
        self.waiting().in_flight > 0
    }

    /// Waits until the socket has taken a chunk. For one waiter.
    pub(super) async fn taken(&self) {
        self.taken.notified().await;
    }

    /// The bytes that the subscriber holds, and the time since its socket took a chunk. `None`: it holds nothing, or was dropped.
    pub(super) fn holds(&self) -> Option<(usize, Duration)> {
        let waiting = self.waiting();
        let bytes = waiting.bytes + waiting.in_flight;
        (waiting.dropped.is_none() && bytes > 0).then(|| (bytes, waiting.progressed.elapsed()))
    }

    /// The held bytes, weighted by the time since the socket took a chunk. `None`: as of [`Self::holds`].
    pub(super) fn weight(&self) -> Option<u128> {
        let (held, idle) = self.holds()?;
        Some(held as u128 * (idle.as_millis() + 100))
    }

    /// Adds a change. Returns the reason if this drops the subscriber.
    pub(super) fn push(&self, change: &Arc<Change>, config: &SubscriberLimits) -> Option<Dropped> {
        let mut waiting = self.waiting();
        if waiting.dropped.is_some() {
            return None;
        }
        let bytes = waiting.bytes + change.bytes();
        let is_full = waiting.items.len() >= config.max_changes
            || (bytes > config.subscriber_bytes && !waiting.items.is_empty());
        if is_full {
            waiting.end(Dropped::Slow, &self.budget);
        } else {
            waiting.bytes = bytes;
            waiting.items.push_back(Item::Change(Arc::clone(change)));
        }
        drop(waiting);
        self.filled.notify_one();
        is_full.then_some(Dropped::Slow)
    }

    /// Marks the place from which on requested topics are delivered. A subscriber has one such request at a time.
    pub(super) fn mark(&self, joined: Option<Position>) {
        let mut waiting = self.waiting();
        if waiting.dropped.is_none() {
            waiting.items.push_back(Item::Joined(joined.map(Box::new)));
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// Drops the subscriber. Returns false if it was dropped before.
    pub(super) fn drop_with(&self, why: Dropped) -> bool {
        let mut waiting = self.waiting();
        let is_new = waiting.dropped.is_none();
        if is_new {
            waiting.end(why, &self.budget);
        }
        drop(waiting);
        self.filled.notify_one();
        is_new
    }

    /// Waits until there is an item to take, or the subscriber is dropped.
    pub(super) async fn ready(&self) {
        while self.is_empty() {
            self.filled.notified().await;
        }
    }

    /// Waits until the subscriber is dropped.
    pub(super) async fn ended(&self) -> Dropped {
        loop {
            if let Some(why) = self.dropped() {
                return why;
            }
            self.filled.notified().await;
        }
    }

    /// Takes the next item, if there is one.
    pub(super) fn take(&self) -> Result<Option<Item>, Dropped> {
        let mut waiting = self.waiting();
        if let Some(why) = waiting.dropped {
            return Err(why);
        }
        let item = waiting.items.pop_front();
        if let Some(Item::Change(change)) = &item {
            waiting.bytes -= change.bytes();
        }
        Ok(item)
    }

    /// Whether nothing waits, and the subscriber is not dropped.
    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.waiting();
        waiting.dropped.is_none() && waiting.items.is_empty()
    }

    /// The reason for which the subscriber was dropped, if it was.
    pub(super) fn dropped(&self) -> Option<Dropped> {
        self.waiting().dropped
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(number: i64, bytes: usize) -> Arc<Change> {
        Arc::new(Change::of_test(number, &"x".repeat(bytes)))
    }

    #[test]
    fn a_chunk_is_held_until_it_is_written_and_leaves_with_its_subscriber() {
        let budget = MemoryBudget::new(1_000, &prometheus::IntGauge::new("a", "a").unwrap());
        let buffer = Arc::new(Buffer::new(&budget));
        let chunk = buffer.try_hold(&Bytes::from(vec![0; 600])).unwrap();
        let written = chunk.clone();
        drop(chunk);
        assert_eq!((budget.held(), buffer.holds().unwrap().0, written.len()), (600, 600, 600));
        assert!(buffer.try_hold(&Bytes::from(vec![0; 401])).is_none());
        assert_eq!((budget.excess(0), budget.excess(400)), (0, 250));
        assert!(buffer.drop_with(Dropped::Slow));
        assert_eq!((budget.excess(400), budget.held(), buffer.holds()), (0, 600, None), "it leaves");
        drop(written);
        assert_eq!((budget.held(), budget.excess(1_000), buffer.is_in_flight()), (0, 250, false));
        assert!(buffer.try_hold(&Bytes::from(vec![0; 9_000])).is_some(), "one always fits");
    }

    #[test]
    fn a_buffer_is_bounded_in_changes_and_bytes_and_is_empty_once_it_was_full() {
        let config = SubscriberLimits {
            max_subscribers: 1,
            max_user_subscribers: 1,
            max_changes: 3,
            subscriber_bytes: 10_000,
            subscribers_bytes: 1_000_000,
            message_bytes: 0,
            heartbeat_s: 1,
        };
        let budget = MemoryBudget::new(1_000_000, &prometheus::IntGauge::new("a", "a").unwrap());
        let buffer = Buffer::new(&budget);
        assert!((0..3).all(|n| buffer.push(&change(n, 10), &config).is_none()));
        assert_eq!(buffer.push(&change(3, 10), &config), Some(Dropped::Slow));
        assert_eq!(buffer.push(&change(4, 10), &config), None, "reported once");
        assert_eq!((buffer.dropped(), buffer.waiting().items.len()), (Some(Dropped::Slow), 0));
        let buffer = Buffer::new(&budget);
        assert_eq!(buffer.push(&change(0, 100_000), &config), None, "one always fits, however large it is");
        assert_eq!(buffer.push(&change(1, 10), &config), Some(Dropped::Slow));
        assert!(!buffer.drop_with(Dropped::Behind), "the first reason stands");
    }
}
