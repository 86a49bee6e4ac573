//! Group commit: requests that wait at the same time share one statement, and for writes one commit.
//!
//! A batch belongs to one shard, for instance a collection of records. While a batch of a shard runs, new requests for the
//! shard wait for the next one, which takes up to [`BatchWork::MAX_REQUESTS`] and begins when the running one has ended, or beside
//! it ([`BatchWork::SECOND_AT`]).
//! Batches therefore grow with the load, and a single request waits for no other. [`Shards`] chooses the next shard; one task
//! owns it. Each request is answered after the commit of its batch.
//!
//! A batch that fails for the fault of one of its rows is bisected, so that the other requests succeed.
//!
//! Waiting requests are bounded in bytes and in time: a request that joins no batch in time is rejected. A request in a batch
//! gets the batch's outcome, however long it takes.

mod answer;
mod shards;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::DbError;
use crate::bisect;
use crate::waking::WakeBatch;
use answer::AnswerSender;
use shards::Shards;

/// Bytes that complete a batch.
const MAX_BYTES: usize = 4 << 20;
/// The unit of the budget for waiting requests; a request counts for one unit at least.
const UNIT_BYTES: usize = 1024;
/// The time between two looks at new requests while every slot has a batch.
const NO_SLOT_POLL: Duration = Duration::from_millis(100);

/// The budget for waiting requests is used up.
#[derive(Debug, Clone, Copy)]
pub struct Overloaded;

/// The work of a batch.
pub trait BatchWork: Send + Sync + 'static {
    /// The common property of a batch's requests.
    type Shard: Shard;
    /// A request.
    type Request: Send + Sync;
    /// The answer to a request.
    type Answer: Send;
    /// The reason for a failure.
    type Error: From<DbError> + From<Overloaded> + Clone + Send;

    /// Requests of one batch at most.
    const MAX_REQUESTS: usize;
    /// Waiting requests with which a second batch of a shard begins while one runs. `None`: never.
    const SECOND_AT: Option<usize> = None;

    /// Runs a batch; returns an answer for each request, in order.
    fn run(
        &self,
        shard: &Self::Shard,
        requests: &[Self::Request],
    ) -> impl Future<Output = Outcomes<Self>> + Send;
}

/// An answer for each request of a batch, or the error of all.
pub type Outcomes<W> = Result<Vec<Outcome<W>>, DbError>;
type Outcome<W> = Result<<W as BatchWork>::Answer, <W as BatchWork>::Error>;

/// A batch of requests that can share a batch.
pub trait Shard: Send + Sync + 'static {
    /// The number that identifies the shard.
    fn number(&self) -> i32;
}

/// A shard with a number and no other property.
#[derive(Debug)]
pub struct NumberedShard(i32);

impl NumberedShard {
    /// The only shard of an executor.
    pub fn single() -> Arc<Self> {
        Arc::new(Self(0))
    }

    /// Shards numbered from 0.
    pub fn all(count: usize) -> Vec<Arc<Self>> {
        (0..).take(count).map(|number| Arc::new(Self(number))).collect()
    }
}

impl Shard for NumberedShard {
    fn number(&self) -> i32 {
        self.0
    }
}

/// The request at a 1-based position in its statement (`with ordinality`); `numbers` are the requests of the statement, in
/// order.
pub fn numbered(numbers: &[usize], place: i32) -> Option<usize> {
    numbers.get(usize::try_from(place).ok()?.checked_sub(1)?).copied()
}

/// Decides, once, whether a request joins a batch or is given up.
#[derive(Debug, Clone, Default)]
struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Takes the decision; false if it was taken before.
    fn take(&self) -> bool {
        // No other memory is published by it.
        !self.0.swap(true, Ordering::Relaxed)
    }

    fn is_taken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A waiting request.
struct Waiting<W: BatchWork> {
    shard: Arc<W::Shard>,
    request: W::Request,
    bytes: usize,
    claim: Claim,
    answer: AnswerSender<Outcome<W>>,
    // Here and not in the caller's future: a waiting request counts even after its caller has left.
    _permit: OwnedSemaphorePermit,
}

/// The handle that callers submit requests to.
pub struct BatchExecutor<W: BatchWork> {
    waiting: UnboundedSender<Waiting<W>>,
    budget: Arc<Semaphore>,
    wait: Duration,
}

impl<W: BatchWork> std::fmt::Debug for BatchExecutor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchExecutor").finish_non_exhaustive()
    }
}

impl<W: BatchWork> BatchExecutor<W> {
    /// An executor and its task, which runs up to `concurrency` batches at once. Waiting requests may hold `budget` bytes.
    pub fn new(
        work: W,
        concurrency: usize,
        budget: usize,
        wait: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (waiting, requests) = unbounded_channel();
        let budget = Arc::new(Semaphore::new(budget / UNIT_BYTES));
        (Self { waiting, budget, wait }, run_batches(Arc::new(work), requests, concurrency))
    }

    /// Submits one request of `bytes` and waits for its answer. It waits up to the executor's `wait` for its batch to begin. If
    /// this future is dropped, the request is left out, unless its batch has begun.
    ///
    /// # Errors
    ///
    /// [`Overloaded`] if the budget is used up; [`DbError::Exhausted`] if no batch takes it in time; those of the work.
    pub async fn execute(
        &self,
        shard: Arc<W::Shard>,
        request: W::Request,
        bytes: usize,
    ) -> Result<W::Answer, W::Error> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1);
        let permit = Arc::clone(&self.budget).try_acquire_many_owned(units);
        let permit = permit.map_err(|_| Overloaded)?;
        let (answer, mut answered) = answer::channel();
        let claim = Claim::default();
        let waiting = Waiting { shard, request, bytes, claim: claim.clone(), answer, _permit: permit };
        self.waiting.send(waiting).map_err(|_| Overloaded)?;
        let answer = match tokio::time::timeout(self.wait, &mut answered).await {
            Err(_elapsed) if claim.take() => return Err(DbError::Exhausted(self.wait).into()),
            // Its batch runs: the statement's time limit bounds the rest.
            Err(_elapsed) => answered.await,
            Ok(answer) => answer,
        };
        // A request is dropped without an answer only when its batch panics, maybe after the commit.
        answer.unwrap_or_else(|_| Err(DbError::OutcomeUnknown.into()))
    }
}

async fn run_batches<W: BatchWork>(
    work: Arc<W>,
    mut asked: UnboundedReceiver<Waiting<W>>,
    concurrency: usize,
) {
    let mut shards = Shards::new(concurrency, W::SECOND_AT);
    let mut running = JoinSet::new();
    let (ending, mut ended) = unbounded_channel();
    loop {
        tokio::select! {
            Some(shard) = ended.recv() => shards.ended(shard),
            // While no slot is free a request could not begin, so none wakes this task.
            asked = asked.recv(), if shards.has_free_slot() => match asked {
                Some(request) => shards.push(request.shard.number(), request, Waiting::is_gone),
                None => return,
            },
            // Requests whose callers left give their memory back.
            () = tokio::time::sleep(NO_SLOT_POLL), if !shards.has_free_slot() => {}
        }
        while let Ok(request) = asked.try_recv() {
            shards.push(request.shard.number(), request, Waiting::is_gone);
        }
        while let Some(ended) = running.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(
                    error = error.to_string(),
                    "a batch panicked; the outcome of its requests is unknown"
                );
            }
        }
        while let Some((number, batch)) = shards.next(take) {
            let slot = ShardSlot { shard: number, ending: ending.clone() };
            let work = Arc::clone(&work);
            running.spawn(async move {
                if let Some(shard) = batch.first().map(|request| Arc::clone(&request.shard)) {
                    run(&*work, &shard, batch).await;
                }
                drop(slot);
            });
        }
    }
}

/// A running batch's slot. Dropped, it reports the end of the batch, also after a panic.
struct ShardSlot {
    shard: i32,
    ending: UnboundedSender<i32>,
}

impl Drop for ShardSlot {
    fn drop(&mut self) {
        let _owner_is_gone = self.ending.send(self.shard);
    }
}

impl<W: BatchWork> Waiting<W> {
    /// Whether the caller has left.
    fn is_gone(&self) -> bool {
        self.claim.is_taken() || self.answer.is_closed()
    }
}

/// Takes a batch out of a shard, without requests whose callers have left.
fn take<W: BatchWork>(shard: &mut VecDeque<Waiting<W>>) -> Vec<Waiting<W>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < W::MAX_REQUESTS
        && bytes < MAX_BYTES
        && let Some(request) = shard.pop_front()
    {
        if !request.answer.is_closed() && request.claim.take() {
            bytes += request.bytes;
            batch.push(request);
        }
    }
    batch
}

async fn run<W: BatchWork>(work: &W, shard: &W::Shard, waiting: Vec<Waiting<W>>) {
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    for Waiting { request, answer, _permit, .. } in waiting {
        requests.push(request);
        answers.push((answer, _permit));
    }
    let mut pending = vec![(requests, answers)];
    while let Some((mut requests, mut answers)) = pending.pop() {
        let error = match work.run(shard, &requests).await {
            Ok(outcomes) => {
                // Callers may need values that they share with their requests.
                drop(requests);
                let mut wakes = WakeBatch::default();
                for ((answer, _permit), outcome) in answers.into_iter().zip(outcomes) {
                    answer.send(outcome, &mut wakes);
                }
                continue;
            }
            Err(error) => error,
        };
        match bisect::halves(&(0..requests.len() as u64)) {
            // One of them is at fault.
            Some([first, _]) if error.is_rows_fault() => {
                let middle = first.end as usize;
                pending.push((requests.split_off(middle), answers.split_off(middle)));
                pending.push((requests, answers));
            }
            _ => {
                let error = W::Error::from(error);
                let mut wakes = WakeBatch::default();
                for (answer, _permit) in answers {
                    answer.send(Err(error.clone()), &mut wakes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

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

    /// Fails as a whole if one of its numbers is below 10; records the batches.
    #[derive(Clone, Default)]
    struct Failing(Arc<Mutex<Vec<Vec<u32>>>>);

    impl BatchWork for Failing {
        type Shard = NumberedShard;
        type Request = u32;
        type Answer = u32;
        type Error = Failed;

        const MAX_REQUESTS: usize = 64;

        async fn run(&self, _: &NumberedShard, requests: &[u32]) -> Outcomes<Self> {
            self.0.lock().push(requests.to_vec());
            if requests.iter().any(|number| *number < 10) {
                return Err(DbError::DroppedByTrigger { table: "t", sent: 1, stored: 0 });
            }
            Ok(requests.iter().map(|number| Ok(*number)).collect())
        }
    }

    #[tokio::test]
    async fn a_batch_is_bisected_until_only_the_request_at_fault_fails() {
        let work = Failing::default();
        let shard = NumberedShard::all(1).remove(0);
        let budget = Arc::new(Semaphore::new(64));
        let numbers: Vec<u32> = (100..137).chain([7]).chain(200..226).collect();
        let (waiting, answered): (Vec<_>, Vec<_>) = numbers
            .iter()
            .map(|number| {
                let (answer, answered) = answer::channel();
                let permit = Arc::clone(&budget).try_acquire_owned().unwrap();
                let (shard, claim) = (Arc::clone(&shard), Claim::default());
                let waiting = Waiting { shard, request: *number, bytes: 0, claim, answer, _permit: permit };
                (waiting, answered)
            })
            .unzip();
        run(&work, &shard, waiting).await;
        for (number, answered) in numbers.iter().zip(answered) {
            let expected = if *number == 7 { Err(Failed::Other) } else { Ok(*number) };
            assert_eq!(answered.await.unwrap(), expected);
        }
        let batches = work.0.lock();
        assert_eq!(batches.len(), 1 + 2 * 6, "64 requests have six levels of halves");
        let stored: Vec<u32> =
            batches.iter().filter(|batch| !batch.contains(&7)).flatten().copied().collect();
        let others: Vec<u32> = numbers.into_iter().filter(|number| *number != 7).collect();
        assert_eq!(stored, others, "each once, in order");
    }

    #[tokio::test]
    async fn a_batch_that_panics_has_an_unknown_outcome_and_its_shard_goes_on() {
        let (executor, own) = BatchExecutor::new(Panicking, 1, 1 << 20, Duration::from_secs(60));
        tokio::spawn(own);
        let shard = NumberedShard::all(1).remove(0);
        assert_eq!(executor.execute(Arc::clone(&shard), true, 0).await, Err(Failed::Unknown));
        assert_eq!(executor.execute(shard, false, 0).await, Ok(()));
    }
}
