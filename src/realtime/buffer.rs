//! A subscriber's buffer: waiting changes, and chunks on their way to the socket.
//!
//! A client that takes nothing of a chunk is slow: while it waits, further changes are bounded in number and in bytes. Changes that wait for
//! their turn in the service are not its fault. They are shared with other subscribers, and bounded for all of them together.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::memory::{MemoryBudget, MemoryPermit};
use super::{Change, Position};
use crate::config::SubscriberLimits;
use crate::waking::{WaitingTask, WakeBatch};

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

/// Changes of a topic that follow each other, for all of its subscribers: publishing costs each of them one entry.
#[derive(Debug)]
pub(super) struct Run {
    changes: Box<[Arc<Change>]>,
    bytes: usize,
    /// Released when the last subscriber has taken the last of them.
    _held: MemoryPermit,
}

/// The most entries for which an empty buffer keeps memory; no budget counts it.
const KEPT_ENTRIES: usize = 256;

/// An entry of a buffer.
#[derive(Debug)]
enum Entry {
    Run(Arc<Run>),
    Joined(Option<Box<Position>>),
}

/// The buffer of a subscriber.
#[derive(Debug)]
pub(super) struct Buffer {
    waiting: Mutex<Waiting>,
    budget: MemoryBudget,
    /// The socket took a chunk.
    taken: Notify,
}

#[derive(Debug)]
struct Waiting {
    entries: VecDeque<Entry>,
    /// The changes of the first entry that were taken.
    begun: usize,
    bytes: usize,
    /// The changes that came since a chunk is on its way, and their bytes.
    came: (usize, usize),
    /// Bytes of chunks that the socket has not taken.
    in_flight: usize,
    /// The last time at which the socket took a chunk.
    progressed: Instant,
    dropped: Option<Dropped>,
    /// Waits for an entry, or for the end.
    task: WaitingTask,
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
        // The client takes what it is sent, even if another chunk waits already.
        waiting.came = (0, 0);
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
        self.entries.clear();
        (self.begun, self.bytes) = (0, 0);
        self.dropped = Some(why);
    }

    /// Whether nothing waits, and the subscriber is not dropped.
    fn is_empty(&self) -> bool {
        self.dropped.is_none() && self.entries.is_empty()
    }
}

impl Run {
    /// Bytes of a run, about: longer ones are cut, as their memory is released as a whole.
    pub(super) const MAX_BYTES: usize = 256 * 1024;

    /// A run in memory of `held`.
    pub(super) fn new(changes: Vec<Change>, held: MemoryPermit) -> Arc<Self> {
        let changes: Box<[_]> = changes.into_iter().map(Arc::new).collect();
        let bytes = changes.iter().map(|change| change.bytes()).sum();
        Arc::new(Self { changes, bytes, _held: held })
    }

    /// The bytes that a run of `changes` takes while it waits for this number of subscribers, about.
    pub(super) fn held_bytes(changes: &[Change], subscribers: usize) -> usize {
        changes.iter().map(Change::held_bytes).sum::<usize>() + subscribers * size_of::<Entry>()
    }
}

impl Buffer {
    /// An empty buffer.
    pub(super) fn new(budget: &MemoryBudget) -> Self {
        let waiting = Waiting {
            entries: VecDeque::new(),
            begun: 0,
            bytes: 0,
            came: (0, 0),
            in_flight: 0,
            progressed: Instant::now(),
            dropped: None,
            task: WaitingTask::default(),
        };
        Self { waiting: Mutex::new(waiting), budget: budget.clone(), taken: Notify::new() }
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

    /// Adds changes. Returns the reason if this drops the subscriber.
    pub(super) fn push(
        &self,
        run: &Arc<Run>,
        config: &SubscriberLimits,
        wakes: &mut WakeBatch,
    ) -> Option<Dropped> {
        let mut waiting = self.waiting();
        if waiting.dropped.is_some() {
            return None;
        }
        if waiting.in_flight > 0 {
            let (changes, bytes) = waiting.came;
            waiting.came = (changes + run.changes.len(), bytes + run.bytes);
        }
        let (changes, bytes) = waiting.came;
        // One always fits, however large it is.
        let is_slow =
            !waiting.entries.is_empty() && (changes > config.max_changes || bytes > config.subscriber_bytes);
        if is_slow {
            waiting.end(Dropped::Slow, &self.budget);
        } else {
            waiting.bytes += run.bytes;
            waiting.entries.push_back(Entry::Run(Arc::clone(run)));
        }
        waiting.task.wake(wakes);
        is_slow.then_some(Dropped::Slow)
    }

    /// Marks the place from which on requested topics are delivered. A subscriber has one such request at a time.
    pub(super) fn mark(&self, joined: Option<Position>) {
        let mut wakes = WakeBatch::default();
        let mut waiting = self.waiting();
        if waiting.dropped.is_none() {
            waiting.entries.push_back(Entry::Joined(joined.map(Box::new)));
        }
        waiting.task.wake(&mut wakes);
        // Before the task is woken.
        drop(waiting);
    }

    /// Drops the subscriber. Returns false if it was dropped before.
    pub(super) fn drop_with(&self, why: Dropped, wakes: &mut WakeBatch) -> bool {
        let mut waiting = self.waiting();
        let is_new = waiting.dropped.is_none();
        if is_new {
            waiting.end(why, &self.budget);
        }
        waiting.task.wake(wakes);
        is_new
    }

    /// Waits until there is an item to take, or the subscriber is dropped. For one task, as [`Self::ended`]. Cancel-safe.
    pub(super) async fn ready(&self) {
        poll_fn(|context| {
            let mut waiting = self.waiting();
            if !waiting.is_empty() {
                return Poll::Ready(());
            }
            waiting.task.register(context);
            Poll::Pending
        })
        .await;
    }

    /// Waits until the subscriber is dropped.
    pub(super) async fn ended(&self) -> Dropped {
        poll_fn(|context| {
            let mut waiting = self.waiting();
            if let Some(why) = waiting.dropped {
                return Poll::Ready(why);
            }
            waiting.task.register(context);
            Poll::Pending
        })
        .await
    }

    /// Takes the next item, if there is one.
    pub(super) fn take(&self) -> Result<Option<Item>, Dropped> {
        let mut guard = self.waiting();
        let waiting = &mut *guard;
        if let Some(why) = waiting.dropped {
            return Err(why);
        }
        if let Some(Entry::Run(run)) = waiting.entries.front()
            && let Some(change) = run.changes.get(waiting.begun)
        {
            let change = Arc::clone(change);
            waiting.begun += 1;
            waiting.bytes -= change.bytes();
            if waiting.begun == run.changes.len() {
                waiting.begun = 0;
                let taken = waiting.entries.pop_front();
                if waiting.entries.is_empty() && waiting.entries.capacity() > KEPT_ENTRIES {
                    waiting.entries = VecDeque::new();
                }
                // Without the lock, as it may be the last subscriber's.
                drop(guard);
                drop(taken);
            }
            return Ok(Some(Item::Change(change)));
        }
        Ok(waiting.entries.pop_front().and_then(|entry| match entry {
            Entry::Joined(joined) => Some(Item::Joined(joined)),
            // None is empty.
            Entry::Run(_) => None,
        }))
    }

    /// Whether nothing waits, and the subscriber is not dropped.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting().is_empty()
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
        assert!(buffer.drop_with(Dropped::Slow, &mut WakeBatch::default()));
        assert_eq!((budget.excess(400), budget.held(), buffer.holds()), (0, 600, None), "it leaves");
        drop(written);
        assert_eq!((budget.held(), budget.excess(1_000), buffer.is_in_flight()), (0, 250, false));
        assert!(buffer.try_hold(&Bytes::from(vec![0; 9_000])).is_some(), "one always fits");
    }

    fn config() -> SubscriberLimits {
        SubscriberLimits {
            max_subscribers: 1,
            max_user_subscribers: 1,
            max_changes: 3,
            subscriber_bytes: 10_000,
            subscribers_bytes: 1_000_000,
            message_bytes: 0,
            heartbeat_s: 1,
        }
    }

    fn run(budget: &MemoryBudget, numbers: std::ops::Range<i64>, bytes: usize) -> Arc<Run> {
        let changes: Vec<_> = numbers.map(|n| Change::of_test(n, &"x".repeat(bytes))).collect();
        let held = budget.try_hold(Run::held_bytes(&changes, 1)).unwrap();
        Run::new(changes, held)
    }

    #[test]
    fn a_buffer_is_bounded_in_changes_and_bytes_while_its_socket_takes_nothing() {
        let budget = MemoryBudget::new(1_000_000, &prometheus::IntGauge::new("a", "a").unwrap());
        let buffer = Arc::new(Buffer::new(&budget));
        let push = |buffer: &Buffer, numbers, bytes| {
            buffer.push(&run(&budget, numbers, bytes), &config(), &mut WakeBatch::default())
        };
        assert_eq!(push(&buffer, 0..20, 1_000), None, "the service is late, and not the client");
        let chunk = buffer.try_hold(&Bytes::from(vec![0; 600]));
        assert_eq!(push(&buffer, 20..23, 10), None);
        // Another one waits already.
        let next = buffer.try_hold(&Bytes::from(vec![0; 600]));
        drop(chunk);
        assert_eq!(push(&buffer, 23..26, 10), None, "it has taken a chunk");
        assert_eq!(push(&buffer, 26..27, 10), Some(Dropped::Slow));
        assert_eq!(push(&buffer, 27..28, 10), None, "reported once");
        assert_eq!((buffer.dropped(), buffer.waiting().entries.len()), (Some(Dropped::Slow), 0));
        drop(next);
        assert_eq!(budget.held(), 0);

        let buffer = Arc::new(Buffer::new(&budget));
        let _chunk = buffer.try_hold(&Bytes::from(vec![0; 600]));
        assert_eq!(push(&buffer, 0..1, 100_000), None, "one always fits, however large it is");
        assert_eq!(push(&buffer, 1..2, 10), Some(Dropped::Slow));
        assert!(!buffer.drop_with(Dropped::Behind, &mut WakeBatch::default()), "the first reason stands");
    }

    #[test]
    fn changes_of_runs_are_taken_one_by_one_and_release_their_memory() {
        let budget = MemoryBudget::new(1_000_000, &prometheus::IntGauge::new("a", "a").unwrap());
        let buffer = Buffer::new(&budget);
        let push = |numbers| buffer.push(&run(&budget, numbers, 10), &config(), &mut WakeBatch::default());
        push(0..2);
        buffer.mark(None);
        push(2..3);
        let taken = std::iter::from_fn(|| buffer.take().unwrap());
        let names = taken.map(|item| match item {
            Item::Change(change) => change.place.number.to_string(),
            Item::Joined(_) => "joined".to_owned(),
        });
        assert_eq!(names.collect::<Vec<_>>(), ["0", "1", "joined", "2"]);
        assert_eq!((budget.held(), buffer.holds(), buffer.is_empty()), (0, None, true));
    }
}
