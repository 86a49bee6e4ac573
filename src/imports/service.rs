//! The handle for the HTTP face.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::ImportsError;
use super::content::ImportContent;
use super::model::{ImportJob, Limits, Plan, Progress};
use super::queue::ImportQueue;
use super::run::Runner;
use super::store::ImportStore;
use crate::config::limits;
use crate::conversations::Conversations;
use crate::db::Database;
use crate::files::{Files, FilesError, StoredFile};
use crate::ingest::BatchHook;
use crate::ingest::id::unix_now_us;
use crate::observe::Metrics;
use crate::supervisor::Supervisor;

/// The reason in the progress of an import whose file is deleted.
const STOPPED: &str = "the file is deleted";
/// The reason in the progress of imports whose user is deleted.
const OWNER_GOES: &str = "the user is deleted";

/// The settings of imports.
#[derive(Debug, Clone)]
pub struct ImportsSettings {
    /// Lanes, each with a connection and a `COPY` at a time, and imports at once.
    pub lanes: usize,
    /// Bytes of a file that one transaction stores.
    pub part_bytes: u64,
    /// Subscribers of imports' progress at once.
    pub max_subscribers: usize,
    /// Time of a statement that stores a part.
    pub timeout: Duration,
    /// Limits of lines.
    pub limits: Limits,
    /// Statements of users within parts.
    pub hook: Arc<dyn BatchHook>,
}

/// Imports; cheap to clone.
#[derive(Debug, Clone)]
pub struct Imports {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    part_bytes: u64,
    store: ImportStore,
    files: Files,
    queue: mpsc::Sender<ImportJob>,
    subscribers: Arc<Semaphore>,
}

/// A place in the queue.
#[derive(Debug)]
pub struct QueuePermit(OwnedPermit<ImportJob>);

/// Stops the imports of a user's files before the user is deleted, on whichever node they run, and waits for the parts under
/// way, for as long as a statement of an import may take. They hold locks on the user's row.
///
/// # Errors
///
/// [`ImportsError::Database`]; it may be repeated.
pub async fn stop_all_of(user: Uuid, database: &Database, timeout: Duration) -> Result<(), ImportsError> {
    let store = ImportStore::new(database, timeout);
    Ok(store.stop_all_of(user, OWNER_GOES).await?)
}

impl Imports {
    /// Starts the task that runs imports, those of former runs first. Parts are stored within the quota of `writers`; other
    /// queries use that of `queries`. A shutdown stops imports where they are; the next start resumes them.
    pub fn start(
        settings: &ImportsSettings,
        writers: &Database,
        queries: &Database,
        files: &Files,
        conversations: Option<&Conversations>,
        metrics: &Arc<Metrics>,
        supervisor: &Supervisor,
    ) -> Self {
        let (queue, jobs) = mpsc::channel(limits::MAX_IMPORTS);
        let runner = Arc::new(Runner {
            store: ImportStore::new(writers, settings.timeout),
            files: files.clone(),
            conversations: conversations.cloned(),
            limits: settings.limits,
            lanes: settings.lanes,
            hook: Arc::clone(&settings.hook),
            max_rejected: limits::IMPORT_MAX_REJECTED,
            metrics: Arc::clone(metrics),
            unrecorded: parking_lot::Mutex::default(),
        });
        ImportQueue::start(runner, jobs, settings.lanes, supervisor);
        let store = ImportStore::new(queries, settings.timeout);
        let subscribers = Arc::new(Semaphore::new(settings.max_subscribers));
        let inner =
            Inner { part_bytes: settings.part_bytes, store, files: files.clone(), queue, subscribers };
        Self { inner: Arc::new(inner) }
    }

    /// A place for another import, taken before anything is stored for it.
    ///
    /// # Errors
    ///
    /// [`ImportsError::TooMany`].
    pub fn permit(&self) -> Result<QueuePermit, ImportsError> {
        let queue = self.inner.queue.clone();
        queue.try_reserve_owned().map(QueuePermit).map_err(|_| ImportsError::TooMany)
    }

    /// Begins the import of a file. A repetition with the same parameters has no effect.
    ///
    /// # Errors
    ///
    /// [`ImportsError::NotLines`]; [`ImportsError::Processed`] if it was imported, or is being imported with other parameters;
    /// [`ImportsError::Database`].
    pub async fn begin(
        &self,
        permit: QueuePermit,
        owner: Option<Uuid>,
        file: &StoredFile,
        plan: Plan,
    ) -> Result<(), ImportsError> {
        self.check(file).await?;
        let part_bytes = self.inner.part_bytes;
        let mut job = ImportJob { file_id: file.id, owner, plan, part_bytes, started_us: unix_now_us() };
        if self.inner.store.begin(&mut job).await? {
            permit.0.send(job);
            return Ok(());
        }
        // A request may have recorded it and ended before it entered the queue.
        let noted = self.inner.store.running(Some(file.id)).await?.into_iter().next();
        let noted = noted.filter(|noted| noted.plan.asks_as(&job.plan)).ok_or(ImportsError::Processed)?;
        permit.0.send(noted);
        Ok(())
    }

    /// Rejects a file whose beginning is not text.
    async fn check(&self, file: &StoredFile) -> Result<(), ImportsError> {
        let opened = match self.inner.files.open(file).await {
            // Another service has the file, or will find that it cannot be read.
            Err(FilesError::ContentMissing | FilesError::Disk(_)) => return Ok(()),
            opened => opened?,
        };
        let checked = tokio::task::spawn_blocking(move || ImportContent::open(opened).map(|_| ())).await;
        checked
            .unwrap_or_else(|ended| Err(ImportsError::File(FilesError::Disk(std::io::Error::other(ended)))))
    }

    /// Stops the import of a file that is to be deleted. Its lanes end after the parts under way.
    ///
    /// # Errors
    ///
    /// [`ImportsError::File`] if the owner has no such file, [`ImportsError::Database`].
    pub async fn stop(&self, owner: Option<Uuid>, file_id: Uuid) -> Result<(), ImportsError> {
        self.inner.files.find(owner, file_id).await?;
        Ok(self.inner.store.fail(file_id, STOPPED).await?)
    }

    /// The progress of the import of an owner's file.
    ///
    /// # Errors
    ///
    /// [`ImportsError::File`] if the owner has no such file, [`ImportsError::NotProcessed`], [`ImportsError::Database`].
    pub async fn progress(&self, owner: Option<Uuid>, file_id: Uuid) -> Result<Progress, ImportsError> {
        self.inner.files.find(owner, file_id).await?;
        self.progress_of(file_id).await
    }

    /// The progress of an import, for a client that was authorized before.
    ///
    /// # Errors
    ///
    /// [`ImportsError::NotProcessed`] if it is gone, [`ImportsError::Database`].
    pub async fn progress_of(&self, file_id: Uuid) -> Result<Progress, ImportsError> {
        self.inner.store.progress(file_id).await?.ok_or(ImportsError::NotProcessed)
    }

    /// A permit for a subscriber of an import.
    ///
    /// # Errors
    ///
    /// [`ImportsError::TooManySubscribers`].
    pub fn subscribe(&self) -> Result<OwnedSemaphorePermit, ImportsError> {
        Arc::clone(&self.inner.subscribers).try_acquire_owned().map_err(|_| ImportsError::TooManySubscribers)
    }

    /// Up to `limit` rejected lines of a file after line `after`, with the reasons.
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
