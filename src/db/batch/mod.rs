//! What waits at the same moment is done together: one statement, and for what is written one commit, for all of it.
//!
//! A group is of one shard: a collection of records, for instance. While it is under way, all that comes for the same shard waits
//! for the next one, which takes up to [`BatchWork::MAX_REQUESTS`] along and begins when it has ended: so groups grow with the load, and who
//! is alone does not wait for others. [`Shards`] says which shard is next; one task owns it. Each request is answered after its
//! group's transaction has been committed.
//!
//! What may wait is bounded in bytes, and in time: who has not been taken along in time is refused. A request that has been
//! taken along is answered by what becomes of it, however long that takes.

mod shards;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;

use super::DbError;
use shards::Shards;

/// The bytes at which a group is large enough.
const MAX_BYTES: usize = 4 << 20;
/// The unit in which what waits is counted; the least that a request counts for.
const UNIT_BYTES: usize = 1024;

/// No more may wait.
#[derive(Debug, Clone, Copy)]
pub struct Overloaded;

/// What is done for a group.
pub trait BatchWork: Send + Sync + 'static {
    /// What the requests of a group have in common.
    type Shard: Shard;
    /// What is asked.
    type Request: Send + Sync;
    /// What is answered.
    type Answer: Send;
    /// Why something was not done.
    type Error: From<DbError> + From<Overloaded> + Clone + Send;

    /// The most requests of a group.
    const MAX_REQUESTS: usize;

    /// Does it; an answer for each request, in order.
    fn run(
        &self,
        shard: &Self::Shard,
        requests: &[Self::Request],
    ) -> impl Future<Output = Outcomes<Self>> + Send;
}

/// An answer for each request of a group, or why there is none for any.
pub type Outcomes<W> = Result<Vec<Outcome<W>>, DbError>;
type Outcome<W> = Result<<W as BatchWork>::Answer, <W as BatchWork>::Error>;

/// Where requests wait that can be done together.
pub trait Shard: Send + Sync + 'static {
    /// By what it is told from others.
    fn number(&self) -> i32;
}

/// A shard that has nothing but its number.
#[derive(Debug)]
pub struct NumberedShard(i32);

impl NumberedShard {
    /// Shards with the numbers from 0 on.
    pub fn all(count: usize) -> Vec<Arc<Self>> {
        (0..).take(count).map(|number| Arc::new(Self(number))).collect()
    }
}

impl Shard for NumberedShard {
    fn number(&self) -> i32 {
        self.0
    }
}

/// The number of the request that stands at a place of its statement, from 1 on (`with ordinality`): `numbers` are those of
/// the statement's requests, in order.
pub fn numbered(numbers: &[usize], place: i32) -> Option<usize> {
    numbers.get(usize::try_from(place).ok()?.checked_sub(1)?).copied()
}

/// Decides, once, whether a request is taken along or given up.
#[derive(Debug, Clone, Default)]
struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Whether the caller is the one who decides.
    fn take(&self) -> bool {
        // Nothing else is passed on by it.
        !self.0.swap(true, Ordering::Relaxed)
    }

    fn is_taken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request that waits.
struct Waiting<W: BatchWork> {
    shard: Arc<W::Shard>,
    request: W::Request,
    bytes: usize,
    claim: Claim,
    answer: oneshot::Sender<Outcome<W>>,
    // Not in the asker's future: what waits is counted even if nobody waits for it any more.
    _room: OwnedSemaphorePermit,
}

/// The way in.
pub struct BatchExecutor<W: BatchWork> {
    waiting: UnboundedSender<Waiting<W>>,
    room: Arc<Semaphore>,
    wait: Duration,
}

impl<W: BatchWork> std::fmt::Debug for BatchExecutor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchExecutor").finish_non_exhaustive()
    }
}

impl<W: BatchWork> BatchExecutor<W> {
    /// A group and the task that owns it, with so many `concurrency` at once. `room` is in bytes.
    pub fn new(
        work: W,
        concurrency: usize,
        room: usize,
        wait: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (waiting, requests) = unbounded_channel();
        let room = Arc::new(Semaphore::new(room / UNIT_BYTES));
        (Self { waiting, room, wait }, own(Arc::new(work), requests, concurrency))
    }

    /// Asks for one request of so many `bytes`, and waits for its answer; for its lock no longer than the group's `wait`. Dropped,
    /// the request is left out of its group, unless that has begun.
    ///
    /// # Errors
    ///
    /// [`Overloaded`] if there is no room; [`DbError::Exhausted`] if its lock does not come in time; those of the work.
    pub async fn execute(
        &self,
        shard: Arc<W::Shard>,
        request: W::Request,
        bytes: usize,
    ) -> Result<W::Answer, W::Error> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1);
        let room = Arc::clone(&self.room).try_acquire_many_owned(units);
        let room = room.map_err(|_| Overloaded)?;
        let (answer, mut answered) = oneshot::channel();
        let claim = Claim::default();
        let waiting = Waiting { shard, request, bytes, claim: claim.clone(), answer, _room: room };
        self.waiting.send(waiting).map_err(|_| Overloaded)?;
        let answer = match tokio::time::timeout(self.wait, &mut answered).await {
            Err(_elapsed) if claim.take() => return Err(DbError::Exhausted(self.wait).into()),
            // It has its lock: its statements' time bounds the rest.
            Err(_elapsed) => answered.await,
            Ok(answer) => answer,
        };
        // A request is dropped without an answer only when its group panics, maybe after the commit.
        answer.unwrap_or_else(|_| Err(DbError::OutcomeUnknown.into()))
    }
}

async fn own<W: BatchWork>(work: Arc<W>, mut asked: UnboundedReceiver<Waiting<W>>, concurrency: usize) {
    let mut shards = Shards::new(concurrency);
    let mut running = JoinSet::new();
    let (ending, mut ended) = unbounded_channel();
    loop {
        tokio::select! {
            Some(shard) = ended.recv() => shards.ended(shard),
            asked = asked.recv() => match asked {
                Some(request) => shards.push(request.shard.number(), request, Waiting::is_gone),
                None => return,
            },
        }
        while let Ok(request) = asked.try_recv() {
            shards.push(request.shard.number(), request, Waiting::is_gone);
        }
        while let Some(ended) = running.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(
                    error = error.to_string(),
                    "a group panicked; its requests get an unknown outcome"
                );
            }
        }
        while let Some((number, group)) = shards.next(take) {
            let lock = ShardLock { shard: number, ending: ending.clone() };
            let work = Arc::clone(&work);
            running.spawn(async move {
                if let Some(shard) = group.first().map(|request| Arc::clone(&request.shard)) {
                    run(&*work, &shard, group).await;
                }
                drop(lock);
            });
        }
    }
}

/// A lock, which is told to the owner when it is over, however that came.
struct ShardLock {
    shard: i32,
    ending: UnboundedSender<i32>,
}

impl Drop for ShardLock {
    fn drop(&mut self) {
        let _owner_is_gone = self.ending.send(self.shard);
    }
}

impl<W: BatchWork> Waiting<W> {
    /// Whether nobody waits for the answer any more.
    fn is_gone(&self) -> bool {
        self.claim.is_taken() || self.answer.is_closed()
    }
}

/// Takes a group out of a shard, without those that nobody waits for any more.
fn take<W: BatchWork>(shard: &mut VecDeque<Waiting<W>>) -> Vec<Waiting<W>> {
    let (mut group, mut bytes) = (Vec::new(), 0);
    while group.len() < W::MAX_REQUESTS
        && bytes < MAX_BYTES
        && let Some(request) = shard.pop_front()
    {
        if !request.answer.is_closed() && request.claim.take() {
            bytes += request.bytes;
            group.push(request);
        }
    }
    group
}

async fn run<W: BatchWork>(work: &W, shard: &W::Shard, waiting: Vec<Waiting<W>>) {
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    for Waiting { request, answer, _room, .. } in waiting {
        requests.push(request);
        answers.push((answer, _room));
    }
    match work.run(shard, &requests).await {
        Ok(outcomes) => {
            // Those who asked may want what they share with their requests.
            drop(requests);
            for ((answer, _room), outcome) in answers.into_iter().zip(outcomes) {
                let _gone = answer.send(outcome);
            }
        }
        // One of them is at fault, and the others shall not suffer for it.
        Err(error) if error.is_rows_fault() && requests.len() > 1 => {
            for (request, (answer, _room)) in requests.into_iter().zip(answers) {
                let outcome = match work.run(shard, &[request]).await {
                    Ok(outcomes) => {
                        outcomes.into_iter().next().unwrap_or_else(|| Err(DbError::OutcomeUnknown.into()))
                    }
                    Err(error) => Err(error.into()),
                };
                let _gone = answer.send(outcome);
            }
        }
        Err(error) => {
            let error = W::Error::from(error);
            for (answer, _room) in answers {
                let _gone = answer.send(Err(error.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Failed {
        Overloaded,
        Unknown,
        Other,
    }

    impl From<Overloaded> for Failed {
        fn from(_: Overloaded) -> Self {
            Self::Overloaded
        }
    }

    impl From<DbError> for Failed {
        fn from(error: DbError) -> Self {
            if matches!(error, DbError::OutcomeUnknown) { Self::Unknown } else { Self::Other }
        }
    }

    /// Panics for a request of `true`.
    struct Panicking;

    impl BatchWork for Panicking {
        type Shard = NumberedShard;
        type Request = bool;
        type Answer = ();
        type Error = Failed;

        const MAX_REQUESTS: usize = 10;

        async fn run(&self, _: &NumberedShard, requests: &[bool]) -> Outcomes<Self> {
            assert!(!requests.contains(&true), "a panic of the work");
            Ok(vec![Ok(()); requests.len()])
        }
    }

    #[tokio::test]
    async fn a_group_that_panics_has_an_unknown_outcome_and_the_line_goes_on() {
        let (group, own) = BatchExecutor::new(Panicking, 1, 1 << 20, Duration::from_secs(60));
        tokio::spawn(own);
        let shard = NumberedShard::all(1).remove(0);
        assert_eq!(group.execute(Arc::clone(&shard), true, 0).await, Err(Failed::Unknown));
        assert_eq!(group.execute(shard, false, 0).await, Ok(()));
    }
}
