//! The handle that faces hold, and the task that runs imports.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::ImportsError;
use super::model::{Job, Limits, Plan, Progress};
use super::run::Runner;
use super::store::Store;
use crate::config::ImportsConfig;
use crate::db::Database;
use crate::files::{Files, StoredFile};
use crate::ingest::id::unix_now_us;
use crate::observe::Metrics;

/// Before unfinished imports are looked for again, where the database is away.
const PAUSE: Duration = Duration::from_secs(2);

/// What imports are built from.
#[derive(Debug, Clone)]
pub struct ImportsSettings {
    /// Limits of imports.
    pub imports: ImportsConfig,
    /// Limits of lines.
    pub limits: Limits,
}

/// Imports; cheap to clone.
#[derive(Debug, Clone)]
pub struct Imports {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ImportsConfig,
    store: Store,
    files: Files,
    queue: mpsc::Sender<Job>,
}

/// The task behind [`Imports`]; imports end with it where they are, and are taken up again by the next start.
#[derive(Debug)]
pub struct ImportsTasks {
    _tasks: JoinSet<()>,
}

impl Imports {
    /// Takes up the imports of former runs on the current runtime: parts are stored over `writers`, a share of the pool,
    /// and all else is asked over `share`.
    pub fn start(
        settings: &ImportsSettings,
        writers: &Database,
        share: &Database,
        files: &Files,
        metrics: &Arc<Metrics>,
    ) -> (Self, ImportsTasks) {
        let config = &settings.imports;
        let timeout = Duration::from_secs(config.import_timeout_s);
        let (queue, jobs) = mpsc::channel(config.max_imports);
        let runner = Arc::new(Runner {
            store: Store::new(writers, timeout),
            files: files.clone(),
            limits: settings.limits,
            lanes: config.import_writers,
            max_rejected: config.import_max_rejected,
            metrics: Arc::clone(metrics),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(run(runner, jobs, config.imports_at_once));
        let store = Store::new(share, timeout);
        let inner = Inner { config: config.clone(), store, files: files.clone(), queue };
        (Self { inner: Arc::new(inner) }, ImportsTasks { _tasks: tasks })
    }

    /// Whether another import could begin now.
    ///
    /// # Errors
    ///
    /// [`ImportsError::TooMany`].
    pub fn has_room(&self) -> Result<(), ImportsError> {
        self.inner.queue.try_reserve().map(drop).map_err(|_| ImportsError::TooMany)
    }

    /// Begins to import a file. Who asks for the same again is told nothing new.
    ///
    /// # Errors
    ///
    /// [`ImportsError::Processed`] if it was imported, or is being imported in another way; [`ImportsError::TooMany`];
    /// [`ImportsError::Database`].
    pub async fn begin(
        &self,
        owner: Option<Uuid>,
        file: &StoredFile,
        plan: Plan,
    ) -> Result<(), ImportsError> {
        let place = self.inner.queue.try_reserve().map_err(|_| ImportsError::TooMany)?;
        let part_bytes = self.inner.config.import_part_bytes;
        let job = Job { file_id: file.id, owner, plan, part_bytes, started_us: unix_now_us() };
        if self.inner.store.begin(&job).await? {
            place.send(job);
            return Ok(());
        }
        match self.inner.store.is_running(file.id, &job.plan).await? {
            true => Ok(()),
            false => Err(ImportsError::Processed),
        }
    }

    /// How far the import of somebody's file is.
    ///
    /// # Errors
    ///
    /// [`ImportsError::File`] if there is no such file of his, [`ImportsError::NotProcessed`], [`ImportsError::Database`].
    pub async fn progress(&self, owner: Option<Uuid>, file_id: Uuid) -> Result<Progress, ImportsError> {
        self.inner.files.find(owner, file_id).await?;
        self.inner.store.progress(file_id).await?.ok_or(ImportsError::NotProcessed)
    }

    /// Up to `limit` lines of a file, after line `after`, that were left out, with the reasons.
    ///
    /// # Errors
    ///
    /// [`ImportsError::Database`].
    pub async fn rejected(
        &self,
        file_id: Uuid,
        after: i64,
        limit: i64,
    ) -> Result<Vec<(i64, String)>, ImportsError> {
        Ok(self.inner.store.rejected(file_id, after, limit).await?)
    }
}

/// Runs up to `at_once` imports: first those of former runs, then those that are asked for.
async fn run(runner: Arc<Runner>, mut jobs: mpsc::Receiver<Job>, at_once: usize) {
    let mut waiting = VecDeque::from(unfinished(&runner.store).await);
    // One that was asked for meanwhile is found both ways.
    let mut found: HashSet<Uuid> = waiting.iter().map(|job| job.file_id).collect();
    let mut running = JoinSet::new();
    loop {
        while running.len() < at_once
            && let Some(job) = waiting.pop_front()
        {
            let runner = Arc::clone(&runner);
            running.spawn(async move { runner.run(job).await });
        }
        tokio::select! {
            Some(_ended) = running.join_next() => {}
            job = jobs.recv(), if running.len() < at_once => match job {
                Some(job) if found.remove(&job.file_id) => {}
                Some(job) => waiting.push_back(job),
                None => return,
            },
        }
    }
}

async fn unfinished(store: &Store) -> Vec<Job> {
    loop {
        match store.running().await {
            Ok(jobs) => return jobs,
            Err(error) => {
                tracing::warn!(error = error.with_sources(), "unfinished imports cannot be looked for");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
