//! Appends: three ways, each a group commit.
//!
//! ```text
//! plain ──────▶ batch: one statement, which is a transaction by itself ──┐
//!   │ a lock, a stream that is closed, gone …                            ├─▶ commit ─▶ answers ─▶ FanOut
//!   ▼                                                                    │
//! producer, Stream-Seq, close ─▶ batch: lock rows, decide, write ────────┤
//!   │ a stream that something else has locked                            │
//!   ▼                                                                    │
//! held: the same, one stream a shard, waits for the lock ────────────────┘
//! ```
//!
//! * Offsets, the closing of a stream, producers and `Stream-Seq` come from the locked rows, never from memory: another node may have written.
//! * Rows are locked in the order of their ids. A batch waits for a lock for 50 ms at most, or skips what is locked. The appends to a stream
//!   that is held for longer wait in a queue of their own, and delay no other stream.
//! * If the answer to a commit is lost, the chunks of its batch show the outcome: each has the batch's number.
//! * Appends of users' transactions wait in a table, [`inbox`], and are decided on in the same way.

mod decided;
mod inbox;
mod plain;
mod store;

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::fan_out::FanOut;
use super::heads::KnownStreams;
use crate::db::{BatchExecutor, BatchWork, Database, NumberedShard, Outcomes, Overloaded};
use crate::observe::Metrics;
use crate::streams::{Append, Appended, StreamError, StreamPath, Watches};
use decided::Outcome;
use inbox::InboxStore;
pub(super) use inbox::InboxTask;
use plain::{PlainAppend, PlainOutcome, PlainWork};
use store::{AppendStore, Patience};

/// Bytes of a waiting append beside its body.
const APPEND_BYTES: usize = 512;
/// Batches of decided appends at once, and streams that are held.
const DECIDED: usize = 2;

/// The sizes of the queues of appends.
#[derive(Debug, Clone, Copy)]
pub(super) struct AppendLimits {
    /// Bytes of waiting appends of each way.
    pub(super) queue_bytes: usize,
    /// The longest wait for a batch.
    pub(super) wait: Duration,
    /// The longest time of a statement.
    pub(super) timeout: Duration,
}

/// Appends to streams.
pub(super) struct Appends {
    plain: BatchExecutor<PlainWork>,
    decided: BatchExecutor<DecidedWork>,
    held: BatchExecutor<DecidedWork>,
    plain_shard: Arc<NumberedShard>,
    decided_shards: Vec<Arc<NumberedShard>>,
    held_shards: Vec<Arc<NumberedShard>>,
    /// Streams with appends in the last queue, and how many.
    held_now: Arc<Mutex<HashMap<StreamPath, usize>>>,
    hasher: RandomState,
    known: Arc<KnownStreams>,
    queue_bytes: usize,
}

impl std::fmt::Debug for Appends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appends").finish_non_exhaustive()
    }
}

/// The tasks of appends, by name.
pub(super) type Tasks = Vec<(&'static str, std::pin::Pin<Box<dyn Future<Output = ()> + Send>>)>;

impl Appends {
    /// Appends and their tasks. `commits` has the quota of batches, `alone` that of appends to streams that are held.
    pub(super) fn new(
        commits: &Database,
        alone: &Database,
        known: &Arc<KnownStreams>,
        fan_out: &FanOut,
        limits: AppendLimits,
    ) -> (Self, Tasks) {
        let AppendLimits { queue_bytes, wait, timeout } = limits;
        let store = |database, patience| AppendStore::new(database, timeout, patience, known, fan_out);
        let (plain, plain_task) =
            BatchExecutor::new(PlainWork(store(commits, Patience::Skip)), 1, queue_bytes, wait);
        let (decided, decided_task) =
            BatchExecutor::new(DecidedWork(store(commits, Patience::Skip)), DECIDED, queue_bytes, wait);
        let (held, held_task) =
            BatchExecutor::new(DecidedWork(store(alone, Patience::Wait)), DECIDED, queue_bytes, wait);
        let appends = Self {
            plain,
            decided,
            held,
            plain_shard: NumberedShard::single(),
            decided_shards: NumberedShard::all(DECIDED),
            held_shards: NumberedShard::all(HELD_SHARDS),
            held_now: Arc::default(),
            hasher: RandomState::new(),
            known: Arc::clone(known),
            queue_bytes,
        };
        let tasks: Tasks = vec![
            ("stream-appends", Box::pin(plain_task)),
            ("stream-decisions", Box::pin(decided_task)),
            ("stream-held-appends", Box::pin(held_task)),
        ];
        (appends, tasks)
    }

    /// Moves rows of the inbox into streams, with the quota of `database`. Nothing is moved to the registry.
    pub(super) fn inbox(
        &self,
        database: &Database,
        fan_out: &FanOut,
        metrics: &Arc<Metrics>,
        watches: &Watches,
        registry: Option<StreamPath>,
    ) -> InboxTask {
        let store =
            AppendStore::new(database, database.statement_timeout(), Patience::Skip, &self.known, fan_out);
        InboxTask::new(InboxStore::new(store, registry), metrics, watches)
    }

    /// Appends, and returns after the commit.
    ///
    /// # Errors
    ///
    /// [`StreamError`].
    pub(super) async fn append(&self, path: &StreamPath, append: Append) -> Result<Appended, StreamError> {
        let bytes = append.body.as_ref().map_or(0, |body| body.bytes().len());
        // One that is larger than the queue waits until it is alone in it.
        let bytes = (APPEND_BYTES + bytes).min(self.queue_bytes);
        let is_held = self.held_now.lock().contains_key(path);
        if !is_held && let Some(plain) = self.plain(path, &append) {
            match self.plain.execute(Arc::clone(&self.plain_shard), plain, bytes).await? {
                PlainOutcome::Appended(appended) => return Ok(appended),
                PlainOutcome::Elsewhere => {}
            }
        }
        let request = Arc::new(DecidedAppend { path: path.clone(), append });
        let hash = self.hasher.hash_one(path.as_str());
        if !is_held {
            let shard = chosen(&self.decided_shards, hash)?;
            if let Outcome::Done(done) = self.decided.execute(shard, Arc::clone(&request), bytes).await? {
                return done;
            }
        }
        let _held = HeldStream::new(&self.held_now, path);
        match self.held.execute(chosen(&self.held_shards, hash)?, request, bytes).await? {
            Outcome::Done(done) => done,
            // It waits for locks.
            Outcome::Held => Err(Overloaded.into()),
        }
    }

    /// The append as one that nothing has to be decided about, as far as is known here.
    fn plain(&self, path: &StreamPath, append: &Append) -> Option<PlainAppend> {
        let body = append.body.as_ref()?;
        if append.close || append.producer.is_some() || append.seq.is_some() {
            return None;
        }
        let stream = self.known.get(path)?;
        let content_type = &stream.fixed().content_type;
        let is_same =
            append.content_type.as_ref() == Some(content_type) && body.is_json() == content_type.is_json();
        is_same.then(|| PlainAppend { stream, body: body.clone() })
    }
}

/// Shards of streams that are held.
const HELD_SHARDS: usize = 64;

fn chosen(shards: &[Arc<NumberedShard>], hash: u64) -> Result<Arc<NumberedShard>, Overloaded> {
    let number = hash % shards.len().max(1) as u64;
    shards.get(number as usize).map(Arc::clone).ok_or(Overloaded)
}

/// An append that waits for the lock of a stream. Later ones to the stream queue behind it.
struct HeldStream {
    held_now: Arc<Mutex<HashMap<StreamPath, usize>>>,
    path: StreamPath,
}

impl HeldStream {
    fn new(held_now: &Arc<Mutex<HashMap<StreamPath, usize>>>, path: &StreamPath) -> Self {
        *held_now.lock().entry(path.clone()).or_default() += 1;
        Self { held_now: Arc::clone(held_now), path: path.clone() }
    }
}

impl Drop for HeldStream {
    fn drop(&mut self) {
        let mut held_now = self.held_now.lock();
        if let Some(count) = held_now.get_mut(&self.path) {
            *count -= 1;
            if *count == 0 {
                held_now.remove(&self.path);
            }
        }
    }
}

/// An append that is decided on with the stream's row locked.
#[derive(Debug)]
struct DecidedAppend {
    path: StreamPath,
    append: Append,
}

/// Decides on batches.
struct DecidedWork(AppendStore);

impl BatchWork for DecidedWork {
    type Shard = NumberedShard;
    type Request = Arc<DecidedAppend>;
    type Answer = Outcome;
    type Error = StreamError;

    const MAX_REQUESTS: usize = 256;

    async fn run(&self, _shard: &NumberedShard, requests: &[Arc<DecidedAppend>]) -> Outcomes<Self> {
        Ok(self.0.decide(requests).await?.into_iter().map(Ok).collect())
    }
}
