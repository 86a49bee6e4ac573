//! Which import runs next: those of former runs first, then those that are asked for, a few at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};
use uuid::Uuid;

use super::model::Job;
use super::run::Runner;
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

/// Between two looks for imports that are noted and that nobody runs: what noted them may have ended before it could say so.
const LOOK: Duration = Duration::from_secs(60);
/// After a look that failed.
const RETRY: Duration = Duration::from_secs(2);

/// Which imports wait and run.
pub(super) struct ImportQueue {
    runner: Arc<Runner>,
    jobs: Receiver<Job>,
    /// The most that run.
    at_once: usize,
    waiting: VecDeque<Job>,
    /// Those that wait or run: each is found by more than one way.
    known: HashSet<Uuid>,
    running: JoinSet<()>,
    /// The files of those that run, by their tasks.
    files: HashMap<Id, Uuid>,
    looks: Interval,
}

impl ImportQueue {
    /// Starts the task that runs up to `at_once` imports.
    pub(super) fn start(runner: Arc<Runner>, jobs: Receiver<Job>, at_once: usize, supervisor: &Supervisor) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let queue = Self {
            runner,
            jobs,
            at_once,
            waiting: VecDeque::new(),
            known: HashSet::new(),
            running: JoinSet::new(),
            files: HashMap::new(),
            looks,
        };
        supervisor.periodic("imports", Duration::ZERO, Backoff::fixed(RETRY), queue);
    }

    fn enqueue(&mut self, jobs: impl IntoIterator<Item = Job>) {
        self.waiting.extend(jobs.into_iter().filter(|job| self.known.insert(job.file_id)));
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let task = match ended {
            Ok((task, ())) => task,
            Err(panicked) => {
                tracing::error!(
                    error = panicked.to_string(),
                    "an import ended unexpectedly; it is tried again"
                );
                panicked.id()
            }
        };
        if let Some(file) = self.files.remove(&task) {
            self.known.remove(&file);
        }
    }
}

impl Step for ImportQueue {
    /// Starts imports for which there is room, then waits for one thing that happens.
    async fn step(&mut self) -> Result<Next, StepError> {
        while self.running.len() < self.at_once
            && let Some(job) = self.waiting.pop_front()
        {
            let (runner, file) = (Arc::clone(&self.runner), job.file_id);
            let task = self.running.spawn(async move { runner.run(job).await });
            self.files.insert(task.id(), file);
        }
        tokio::select! {
            Some(ended) = self.running.join_next_with_id() => self.ended(ended),
            _ = self.looks.tick() => match self.runner.store.running(None).await {
                Ok(found) => self.enqueue(found),
                Err(error) => {
                    self.looks.reset_immediately();
                    return Err(error.into());
                }
            },
            Some(job) = self.jobs.recv(), if self.running.len() < self.at_once => self.enqueue([job]),
        }
        Ok(Next::Interval)
    }

    /// What waited is noted in Postgres and found by the next look.
    fn recover(&mut self) {
        self.waiting.clear();
        self.known = self.files.values().copied().collect();
        self.looks.reset_immediately();
    }
}
