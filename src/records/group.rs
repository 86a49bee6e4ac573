//! What waits at the same moment is done together: one statement, and for what is written one commit, for all of it.
//!
//! One task owns what waits. When a group has ended, all that waits (up to [`MAX_JOBS`]) goes with the next one, so groups
//! grow with the load, and who is alone does not wait for others. A group that takes longer than [`PATIENCE`] is not waited
//! for, as far as there are turns. Each is answered after its
//! group's transaction has been committed.
//!
//! What may wait is bounded in bytes, and in time: who was not taken along in time is refused.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;

use super::RecordsError;
use super::collections::Collection;
use crate::db::DbError;

/// The most jobs of a group.
const MAX_JOBS: usize = 128;
/// The bytes at which a group is large enough.
const MAX_BYTES: usize = 4 << 20;
/// How long a group that is under way is waited for before the next one begins beside it: longer than one takes, unless the
/// disk is slow or something holds it up.
const PATIENCE: Duration = Duration::from_millis(2);
/// The unit in which what waits is counted; the least that a job counts for.
const UNIT_BYTES: usize = 1024;

/// What is done for a group of one collection.
pub(super) trait Work: Send + Sync + 'static {
    /// What is asked.
    type Job: Send + Sync;
    /// What is answered.
    type Answer: Send;

    /// Does it; an answer for each job, in order.
    fn run(
        &self,
        collection: &Collection,
        jobs: &[Self::Job],
    ) -> impl Future<Output = Result<Vec<Result<Self::Answer, RecordsError>>, DbError>> + Send;
}

/// A job that waits.
struct Waiting<W: Work> {
    collection: Arc<Collection>,
    job: W::Job,
    bytes: usize,
    since: Instant,
    answer: oneshot::Sender<Result<W::Answer, RecordsError>>,
    // Not in the asker's future: what waits is counted even if nobody waits for it any more.
    _room: OwnedSemaphorePermit,
}

/// The way in.
pub(super) struct Group<W: Work> {
    waiting: UnboundedSender<Waiting<W>>,
    room: Arc<Semaphore>,
}

impl<W: Work> std::fmt::Debug for Group<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

impl<W: Work> Group<W> {
    /// A group and the task that owns it, with so many `turns` at once. `room` is in bytes.
    pub(super) fn new(
        work: W,
        turns: usize,
        room: usize,
        wait: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (waiting, jobs) = unbounded_channel();
        let room = Arc::new(Semaphore::new(room / UNIT_BYTES));
        (Self { waiting, room }, own(Arc::new(work), jobs, turns, wait))
    }

    /// Asks for one job of so many `bytes`, and waits for its answer.
    pub(super) async fn ask(
        &self,
        collection: Arc<Collection>,
        job: W::Job,
        bytes: usize,
    ) -> Result<W::Answer, RecordsError> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1);
        let room = Arc::clone(&self.room).try_acquire_many_owned(units);
        let room = room.map_err(|_| RecordsError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { collection, job, bytes, since: Instant::now(), answer, _room: room };
        self.waiting.send(waiting).map_err(|_| RecordsError::Overloaded)?;
        // The owner never drops a job without an answer while the service runs.
        answered.await.unwrap_or(Err(RecordsError::Overloaded))
    }
}

async fn own<W: Work>(
    work: Arc<W>,
    mut waiting: UnboundedReceiver<Waiting<W>>,
    turns: usize,
    wait: Duration,
) {
    let turns = Arc::new(Semaphore::new(turns));
    let mut running = JoinSet::new();
    while let Some(first) = waiting.recv().await {
        while running.try_join_next().is_some() {}
        if !running.is_empty() {
            // Whoever comes meanwhile goes along, which costs all of them less than a turn of their own.
            let _ended_or_slow = tokio::time::timeout(PATIENCE, running.join_next()).await;
        }
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < MAX_JOBS
            && bytes < MAX_BYTES
            && let Ok(next) = waiting.try_recv()
        {
            bytes += next.bytes;
            group.push(next);
        }
        let work = Arc::clone(&work);
        running.spawn(async move {
            for (collection, jobs) in by_collection(group, wait) {
                run(&*work, &collection, jobs).await;
            }
            drop(turn);
        });
    }
}

type OfCollection<W> = (Arc<Collection>, Vec<Waiting<W>>);

/// The jobs of each collection. Those that nobody waits for are left out, and those that waited too long are refused.
fn by_collection<W: Work>(group: Vec<Waiting<W>>, wait: Duration) -> Vec<OfCollection<W>> {
    let mut parts: BTreeMap<i32, OfCollection<W>> = BTreeMap::new();
    for job in group {
        if job.answer.is_closed() {
            continue;
        }
        if job.since.elapsed() > wait {
            let _gone = job.answer.send(Err(DbError::Exhausted(wait).into()));
            continue;
        }
        let collection = Arc::clone(&job.collection);
        parts.entry(collection.id).or_insert_with(|| (collection, Vec::new())).1.push(job);
    }
    parts.into_values().collect()
}

async fn run<W: Work>(work: &W, collection: &Collection, waiting: Vec<Waiting<W>>) {
    let (mut jobs, mut answers) = (Vec::new(), Vec::new());
    for Waiting { job, answer, _room, .. } in waiting {
        jobs.push(job);
        answers.push((answer, _room));
    }
    match work.run(collection, &jobs).await {
        Ok(outcomes) => {
            for ((answer, _room), outcome) in answers.into_iter().zip(outcomes) {
                let _gone = answer.send(outcome);
            }
        }
        // One of them is at fault, and the others shall not suffer for it.
        Err(error) if error.is_rows_fault() && jobs.len() > 1 => {
            for (job, (answer, _room)) in jobs.into_iter().zip(answers) {
                let outcome = match work.run(collection, &[job]).await {
                    Ok(outcomes) => outcomes.into_iter().next().unwrap_or(Err(RecordsError::Overloaded)),
                    Err(error) => Err(error.into()),
                };
                let _gone = answer.send(outcome);
            }
        }
        Err(error) => {
            let error = RecordsError::from(error);
            for (answer, _room) in answers {
                let _gone = answer.send(Err(error.clone()));
            }
        }
    }
}
