//! Which import runs next: those of former runs first, then those that are asked for, a few at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::model::Job;
use super::run::Runner;

/// Between two looks for imports that are noted and that nobody runs: what noted them may have ended before it could say so.
const LOOK: Duration = Duration::from_secs(60);
/// Between two looks while the first one has not gone well.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Runs up to `at_once` imports.
pub(super) async fn run(runner: Arc<Runner>, mut jobs: Receiver<Job>, at_once: usize) {
    let mut waiting: VecDeque<Job> = VecDeque::new();
    // Those that wait or run: each is found by more than one way.
    let mut known: HashSet<Uuid> = HashSet::new();
    let mut running = JoinSet::new();
    let mut files = HashMap::new();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        while running.len() < at_once
            && let Some(job) = waiting.pop_front()
        {
            let (runner, file) = (Arc::clone(&runner), job.file_id);
            let task = running.spawn(async move { runner.run(job).await });
            files.insert(task.id(), file);
        }
        tokio::select! {
            Some(ended) = running.join_next_with_id() => {
                let task = match ended {
                    Ok((task, ())) => task,
                    Err(panicked) => {
                        tracing::error!(error = panicked.to_string(), "an import ended unexpectedly; it is tried again");
                        panicked.id()
                    }
                };
                if let Some(file) = files.remove(&task) {
                    known.remove(&file);
                }
            }
            _ = looks.tick() => match runner.store.running(None).await {
                Ok(found) => waiting.extend(found.into_iter().filter(|job| known.insert(job.file_id))),
                Err(error) => {
                    tracing::warn!(error = error.with_sources(), "unfinished imports cannot be looked for");
                    looks.reset_after(FIRST_LOOK);
                }
            },
            job = jobs.recv(), if running.len() < at_once => match job {
                Some(job) => waiting.extend(Some(job).filter(|job| known.insert(job.file_id))),
                None => return,
            },
        }
    }
}
