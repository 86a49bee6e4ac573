//! The coordination of the workers: waits until all are ready, starts them together, stops them, and adds up their results.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::fleet::{Event, Fleet};
use crate::live::Live;
use crate::pace::CATCH_UP;
use crate::protocol::{Message, Plan};
use crate::schedule::Phase;
use crate::tally::{Counts, Tally, Times};

/// The time limit for opening the workers' connections.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The grace period for a worker beyond its own limits.
const MARGIN: Duration = Duration::from_secs(10);

/// The reason why a run did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The processes cannot be started.
    #[error("the workers cannot be started")]
    Start(#[from] io::Error),
    /// A worker failed before the start.
    #[error("worker {0} is not ready: {1}")]
    NotReady(usize, String),
    /// A worker was not ready in time.
    #[error("the workers were not ready within {} s", START_TIMEOUT.as_secs())]
    StartTimeout,
    /// Interrupted before the start.
    #[error("interrupted")]
    Interrupted,
}

/// The sum of the workers' results.
pub(crate) struct Collected {
    /// All measurements.
    pub(crate) tally: Tally,
    /// Workers that did not report.
    pub(crate) failures: Vec<String>,
    /// Whether the run was interrupted.
    pub(crate) interrupted: bool,
}

/// Runs the workers of `plan` to their end. The first interrupt stops them in order, a second one at once.
pub(crate) async fn collect(plan: &Plan, live: &Live) -> Result<Collected, Error> {
    let plans: Vec<Plan> = (0..plan.workers).map(|worker| Plan { worker, ..plan.clone() }).collect();
    let mut fleet = Fleet::start(&plans).await?;
    let mut seen = live.interrupts();
    tokio::select! {
        ready = all_ready(&mut fleet, plans.len()) => ready?,
        () = tokio::time::sleep(START_TIMEOUT) => return Err(Error::StartTimeout),
        () = live.interrupted(seen) => return Err(Error::Interrupted),
    }
    let mut workers = Workers::new(plans.len());
    let duration = Duration::from_secs_f64(plan.duration_s);
    let last_answers = Duration::from_secs_f64(plan.timeout_s) + CATCH_UP + MARGIN;
    let mut deadline = Instant::now() + duration + last_answers;
    let mut interrupted = false;
    let events = |phase: &Phase| Phase { per_second: phase.per_second * plan.events() as f64, ..*phase };
    live.begin(plan.duration_s, plan.phases.iter().map(events).collect());
    fleet.go().await;
    while workers.running() > 0 {
        tokio::select! {
            event = fleet.next() => match event {
                Some((worker, event)) => {
                    let before = workers.counts(worker);
                    workers.take(worker, event, live);
                    let now = workers.counts(worker);
                    live.add(now.accepted.saturating_sub(before.accepted), now.errors().saturating_sub(before.errors()), &Times::empty());
                }
                None => break,
            },
            () = live.interrupted(seen) => {
                seen = live.interrupts();
                let patience = if interrupted { Duration::ZERO } else { last_answers };
                deadline = deadline.min(Instant::now() + patience);
                interrupted = true;
                live.note("interrupted: waiting for the last answers; once more ends at once");
                fleet.stop();
            }
            () = sleep_until(deadline) => break,
        }
    }
    live.end("waiting until the accepted events are stored");
    Ok(workers.sum(interrupted))
}

async fn all_ready(fleet: &mut Fleet, workers: usize) -> Result<(), Error> {
    for _ in 0..workers {
        match fleet.next().await {
            Some((_, Event::Received(Message::Ready))) => {}
            Some((worker, Event::Received(Message::Failed(why)) | Event::Lost(why))) => {
                return Err(Error::NotReady(worker, why));
            }
            Some((worker, Event::Received(_))) => {
                return Err(Error::NotReady(worker, "out of step".to_owned()));
            }
            None => return Err(Error::NotReady(workers, "gone".to_owned())),
        }
    }
    Ok(())
}

enum Worker {
    Running(Counts),
    Done(Box<Tally>),
    Lost(Counts, String),
}

struct Workers(Vec<Worker>);

impl Workers {
    fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Worker::Running(Counts::default())).collect())
    }

    fn running(&self) -> usize {
        self.0.iter().filter(|worker| matches!(worker, Worker::Running(_))).count()
    }

    fn counts(&self, worker: usize) -> Counts {
        match self.0.get(worker) {
            Some(Worker::Running(counts) | Worker::Lost(counts, _)) => counts.clone(),
            Some(Worker::Done(tally)) => tally.counts.clone(),
            None => Counts::default(),
        }
    }

    fn take(&mut self, worker: usize, event: Event, live: &Live) {
        let worker = &mut self.0[worker];
        let Worker::Running(counts) = worker else { return };
        match event {
            Event::Received(Message::Progress(now)) => {
                live.add(0, 0, &now.latest);
                *counts = now.counts;
            }
            Event::Received(Message::Done(tally)) => *worker = Worker::Done(tally),
            Event::Received(Message::Failed(why)) | Event::Lost(why) => {
                *worker = Worker::Lost(std::mem::take(counts), why);
            }
            Event::Received(Message::Ready) => {}
        }
    }

    /// Adds up all results. A worker that did not report counts with its last progress, and its requests in flight as unknown.
    fn sum(self, interrupted: bool) -> Collected {
        let mut tally = Tally::default();
        let mut failures = Vec::new();
        for (index, worker) in self.0.into_iter().enumerate() {
            let (mut counts, why) = match worker {
                Worker::Done(done) => {
                    tally.add(&done);
                    continue;
                }
                Worker::Running(counts) => (counts, "did not end in time".to_owned()),
                Worker::Lost(counts, why) => (counts, why),
            };
            counts.unknown += counts.in_flight();
            tally.counts.add(&counts);
            failures.push(format!("worker {index}: {why}; it counts as in its last word"));
        }
        Collected { tally, failures, interrupted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Progress;

    #[test]
    fn a_worker_that_dies_fails_the_run_and_leaves_its_last_word() {
        let mut workers = Workers::new(2);
        let counts = |sent, accepted| Counts { sent, accepted, ..Counts::default() };
        let live = Live::default();
        let progress = Progress { counts: counts(10, 7), ..Progress::default() };
        workers.take(0, Event::Received(Message::Progress(Box::new(progress))), &live);
        workers.take(0, Event::Lost("killed".to_owned()), &live);
        let done = Tally { counts: counts(5, 5), elapsed_s: 2.0, ..Tally::default() };
        workers.take(1, Event::Received(Message::Done(Box::new(done))), &live);
        assert_eq!(workers.running(), 0);
        let collected = workers.sum(false);
        assert_eq!(collected.tally.counts, Counts { unknown: 3, ..counts(15, 12) });
        assert_eq!(collected.failures.len(), 1);
    }
}
