//! The queue of imports: those of former runs first, then new ones, a few at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};
use uuid::Uuid;

use super::model::ImportJob;
use super::run::Runner;
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

/// The interval between two queries for recorded imports that are not running: a request may end after it recorded one.
const LOOK: Duration = Duration::from_secs(60);
/// The interval after a failed query.
const RETRY: Duration = Duration::from_secs(2);

/// Waiting and running imports.
pub(super) struct ImportQueue {
    runner: Arc<Runner>,
    jobs: Receiver<ImportJob>,
    /// Running imports at most.
    at_once: usize,
    waiting: VecDeque<ImportJob>,
    /// The files of waiting and running imports: each import may be found twice.
    known: HashSet<Uuid>,
    running: JoinSet<()>,
    /// The files of running imports, by task.
    files: HashMap<Id, Uuid>,
    looks: Interval,
}

impl ImportQueue {
    /// Starts the task that runs up to `at_once` imports.
    pub(super) fn start(
        runner: Arc<Runner>,
        jobs: Receiver<ImportJob>,
        at_once: usize,
        supervisor: &Supervisor,
    ) {
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

    fn enqueue(&mut self, jobs: impl IntoIterator<Item = ImportJob>) {
        self.waiting.extend(jobs.into_iter().filter(|job| self.known.insert(job.file_id)));
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let task = match ended {
            Ok((task, ())) => task,
            Err(panicked) => {
                tracing::error!(error = panicked.to_string(), "an import panicked; it is retried");
                panicked.id()
            }
        };
        if let Some(file) = self.files.remove(&task) {
            self.known.remove(&file);
        }
    }
}

impl Step for ImportQueue {
    /// Starts waiting imports up to the maximum, then waits for one event.
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

    /// Waiting imports are recorded in Postgres; the next query finds them.
    fn recover(&mut self) {
        self.waiting.clear();
        self.known = self.files.values().copied().collect();
        self.looks.reset_immediately();
    }
}
