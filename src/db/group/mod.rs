//! What waits at the same moment is done together: one statement, and for what is written one commit, for all of it.
//!
//! A group is of one line: a collection of records, for instance. While it is under way, all that comes for the same line waits
//! for the next one, which takes up to [`Work::MAX_JOBS`] along and begins when it has ended: so groups grow with the load, and who
//! is alone does not wait for others. [`Lines`] says which line is next; one task owns it. Each job is answered after its
//! group's transaction has been committed.
//!
//! What may wait is bounded in bytes, and in time: who has not been taken along in time is refused. A job that has been
//! taken along is answered by what becomes of it, however long that takes.

mod lines;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;

use super::DbError;
use lines::Lines;

/// The bytes at which a group is large enough.
const MAX_BYTES: usize = 4 << 20;
/// The unit in which what waits is counted; the least that a job counts for.
const UNIT_BYTES: usize = 1024;

/// No more may wait.
#[derive(Debug, Clone, Copy)]
pub struct Crowded;

/// What is done for a group.
pub trait Work: Send + Sync + 'static {
    /// What the jobs of a group have in common.
    type Line: Line;
    /// What is asked.
    type Job: Send + Sync;
    /// What is answered.
    type Answer: Send;
    /// Why something was not done.
    type Error: From<DbError> + From<Crowded> + Clone + Send;

    /// The most jobs of a group.
    const MAX_JOBS: usize;

    /// Does it; an answer for each job, in order.
    fn run(&self, line: &Self::Line, jobs: &[Self::Job]) -> impl Future<Output = Outcomes<Self>> + Send;
}

/// An answer for each job of a group, or why there is none for any.
pub type Outcomes<W> = Result<Vec<Outcome<W>>, DbError>;
type Outcome<W> = Result<<W as Work>::Answer, <W as Work>::Error>;

/// Where jobs wait that can be done together.
pub trait Line: Send + Sync + 'static {
    /// By what it is told from others.
    fn number(&self) -> i32;
}

/// A line that has nothing but its number.
#[derive(Debug)]
pub struct NumberedLine(i32);

impl NumberedLine {
    /// Lines with the numbers from 0 on.
    pub fn all(count: usize) -> Vec<Arc<Self>> {
        (0..).take(count).map(|number| Arc::new(Self(number))).collect()
    }
}

impl Line for NumberedLine {
    fn number(&self) -> i32 {
        self.0
    }
}

/// The number of the job that stands at a place of its statement, from 1 on (`with ordinality`): `numbers` are those of
/// the statement's jobs, in order.
pub fn numbered(numbers: &[usize], place: i32) -> Option<usize> {
    numbers.get(usize::try_from(place).ok()?.checked_sub(1)?).copied()
}

/// Decides, once, whether a job is taken along or given up.
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

/// A job that waits.
struct Waiting<W: Work> {
    line: Arc<W::Line>,
    job: W::Job,
    bytes: usize,
    claim: Claim,
    answer: oneshot::Sender<Outcome<W>>,
    // Not in the asker's future: what waits is counted even if nobody waits for it any more.
    _room: OwnedSemaphorePermit,
}

/// The way in.
pub struct Group<W: Work> {
    waiting: UnboundedSender<Waiting<W>>,
    room: Arc<Semaphore>,
    wait: Duration,
}

impl<W: Work> std::fmt::Debug for Group<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

impl<W: Work> Group<W> {
    /// A group and the task that owns it, with so many `turns` at once. `room` is in bytes.
    pub fn new(
        work: W,
        turns: usize,
        room: usize,
        wait: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (waiting, jobs) = unbounded_channel();
        let room = Arc::new(Semaphore::new(room / UNIT_BYTES));
        (Self { waiting, room, wait }, own(Arc::new(work), jobs, turns))
    }

    /// Asks for one job of so many `bytes`, and waits for its answer; for its turn no longer than the group's `wait`. Dropped,
    /// the job is left out of its group, unless that has begun.
    ///
    /// # Errors
    ///
    /// [`Crowded`] if there is no room; [`DbError::Exhausted`] if its turn does not come in time; those of the work.
    pub async fn ask(&self, line: Arc<W::Line>, job: W::Job, bytes: usize) -> Result<W::Answer, W::Error> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1);
        let room = Arc::clone(&self.room).try_acquire_many_owned(units);
        let room = room.map_err(|_| Crowded)?;
        let (answer, mut answered) = oneshot::channel();
        let claim = Claim::default();
        let waiting = Waiting { line, job, bytes, claim: claim.clone(), answer, _room: room };
        self.waiting.send(waiting).map_err(|_| Crowded)?;
        let answer = match tokio::time::timeout(self.wait, &mut answered).await {
            Err(_elapsed) if claim.take() => return Err(DbError::Exhausted(self.wait).into()),
            // It has its turn: its statements' time bounds the rest.
            Err(_elapsed) => answered.await,
            Ok(answer) => answer,
        };
        // A job is dropped without an answer only when its group panics, maybe after the commit.
        answer.unwrap_or_else(|_| Err(DbError::OutcomeUnknown.into()))
    }
}

async fn own<W: Work>(work: Arc<W>, mut asked: UnboundedReceiver<Waiting<W>>, turns: usize) {
    let mut lines = Lines::new(turns);
    let mut running = JoinSet::new();
    let (ending, mut ended) = unbounded_channel();
    loop {
        tokio::select! {
            Some(line) = ended.recv() => lines.ended(line),
            asked = asked.recv() => match asked {
                Some(job) => lines.push(job.line.number(), job, Waiting::is_gone),
                None => return,
            },
        }
        while let Ok(job) = asked.try_recv() {
            lines.push(job.line.number(), job, Waiting::is_gone);
        }
        while let Some(ended) = running.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(
                    error = error.to_string(),
                    "a group panicked; its requests get an unknown outcome"
                );
            }
        }
        while let Some((number, group)) = lines.next(take) {
            let turn = Turn { line: number, ending: ending.clone() };
            let work = Arc::clone(&work);
            running.spawn(async move {
                if let Some(line) = group.first().map(|job| Arc::clone(&job.line)) {
                    run(&*work, &line, group).await;
                }
                drop(turn);
            });
        }
    }
}

/// A turn, which is told to the owner when it is over, however that came.
struct Turn {
    line: i32,
    ending: UnboundedSender<i32>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _owner_is_gone = self.ending.send(self.line);
    }
}

impl<W: Work> Waiting<W> {
    /// Whether nobody waits for the answer any more.
    fn is_gone(&self) -> bool {
        self.claim.is_taken() || self.answer.is_closed()
    }
}

/// Takes a group out of a line, without those that nobody waits for any more.
fn take<W: Work>(line: &mut VecDeque<Waiting<W>>) -> Vec<Waiting<W>> {
    let (mut group, mut bytes) = (Vec::new(), 0);
    while group.len() < W::MAX_JOBS
        && bytes < MAX_BYTES
        && let Some(job) = line.pop_front()
    {
        if !job.answer.is_closed() && job.claim.take() {
            bytes += job.bytes;
            group.push(job);
        }
    }
    group
}

async fn run<W: Work>(work: &W, line: &W::Line, waiting: Vec<Waiting<W>>) {
    let (mut jobs, mut answers) = (Vec::new(), Vec::new());
    for Waiting { job, answer, _room, .. } in waiting {
        jobs.push(job);
        answers.push((answer, _room));
    }
    match work.run(line, &jobs).await {
        Ok(outcomes) => {
            // Those who asked may want what they share with their jobs.
            drop(jobs);
            for ((answer, _room), outcome) in answers.into_iter().zip(outcomes) {
                let _gone = answer.send(outcome);
            }
        }
        // One of them is at fault, and the others shall not suffer for it.
        Err(error) if error.is_rows_fault() && jobs.len() > 1 => {
            for (job, (answer, _room)) in jobs.into_iter().zip(answers) {
                let outcome = match work.run(line, &[job]).await {
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
        Crowded,
        Unknown,
        Other,
    }

    impl From<Crowded> for Failed {
        fn from(_: Crowded) -> Self {
            Self::Crowded
        }
    }

    impl From<DbError> for Failed {
        fn from(error: DbError) -> Self {
            if matches!(error, DbError::OutcomeUnknown) { Self::Unknown } else { Self::Other }
        }
    }

    /// Panics for a job of `true`.
    struct Panicking;

    impl Work for Panicking {
        type Line = NumberedLine;
        type Job = bool;
        type Answer = ();
        type Error = Failed;

        const MAX_JOBS: usize = 10;

        async fn run(&self, _: &NumberedLine, jobs: &[bool]) -> Outcomes<Self> {
            assert!(!jobs.contains(&true), "a panic of the work");
            Ok(vec![Ok(()); jobs.len()])
        }
    }

    #[tokio::test]
    async fn a_group_that_panics_has_an_unknown_outcome_and_the_line_goes_on() {
        let (group, own) = Group::new(Panicking, 1, 1 << 20, Duration::from_secs(60));
        tokio::spawn(own);
        let line = NumberedLine::all(1).remove(0);
        assert_eq!(group.ask(Arc::clone(&line), true, 0).await, Err(Failed::Unknown));
        assert_eq!(group.ask(line, false, 0).await, Ok(()));
    }
}
