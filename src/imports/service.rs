//! The handle that faces hold.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::ImportsError;
use super::content::Content;
use super::model::{Job, Limits, Plan, Progress};
use super::queue::ImportQueue;
use super::run::Runner;
use super::store::Store;
use crate::config::ImportsConfig;
use crate::conversations::Conversations;
use crate::db::Database;
use crate::files::{Files, FilesError, StoredFile};
use crate::ingest::id::unix_now_us;
use crate::observe::Metrics;
use crate::supervisor::Supervisor;

/// Why an import ended whose file is deleted.
const STOPPED: &str = "the file is deleted";
/// Why imports ended whose files go with their user.
const OWNER_GOES: &str = "the user is deleted";

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
    followers: Arc<Semaphore>,
}

/// A place in the queue.
#[derive(Debug)]
pub struct Place(OwnedPermit<Job>);

/// Stops the imports of all files of a user who is to be deleted, on whichever node they run, and waits for the parts that
/// are on their way, for as long as a statement of an import may take. While they are, the user's row cannot be had.
///
/// # Errors
///
/// [`ImportsError::Database`]; it may be tried again.
pub async fn stop_all_of(
    user: Uuid,
    database: &Database,
    config: &ImportsConfig,
) -> Result<(), ImportsError> {
    let store = Store::new(database, Duration::from_secs(config.import_timeout_s));
    Ok(store.stop_all_of(user, OWNER_GOES).await?)
}

impl Imports {
    /// Starts the task that runs imports, those of former runs first: parts are stored over `writers`, a share of the pool,
    /// and all else is asked over `share`. Imports end with the task where they are; the next start resumes them.
    pub fn start(
        settings: &ImportsSettings,
        writers: &Database,
        share: &Database,
        files: &Files,
        conversations: &Conversations,
        metrics: &Arc<Metrics>,
        supervisor: &Supervisor,
    ) -> Self {
        let config = &settings.imports;
        let timeout = Duration::from_secs(config.import_timeout_s);
        let (queue, jobs) = mpsc::channel(config.max_imports);
        let runner = Arc::new(Runner {
            store: Store::new(writers, timeout),
            files: files.clone(),
            conversations: conversations.clone(),
            limits: settings.limits,
            lanes: config.import_writers,
            max_rejected: config.import_max_rejected,
            metrics: Arc::clone(metrics),
        });
        ImportQueue::start(runner, jobs, config.imports_at_once, supervisor);
        let store = Store::new(share, timeout);
        let followers = Arc::new(Semaphore::new(config.max_import_followers));
        let inner = Inner { config: config.clone(), store, files: files.clone(), queue, followers };
        Self { inner: Arc::new(inner) }
    }

    /// A place for another import, to be had before anything is stored for it.
    ///
    /// # Errors
    ///
    /// [`ImportsError::TooMany`].
    pub fn place(&self) -> Result<Place, ImportsError> {
        let queue = self.inner.queue.clone();
        queue.try_reserve_owned().map(Place).map_err(|_| ImportsError::TooMany)
    }

    /// Begins to import a file. Who asks for the same again is told nothing new.
    ///
    /// # Errors
    ///
    /// [`ImportsError::NotLines`]; [`ImportsError::Processed`] if it was imported, or is being imported in another way;
    /// [`ImportsError::Database`].
    pub async fn begin(
        &self,
        place: Place,
        owner: Option<Uuid>,
        file: &StoredFile,
        plan: Plan,
    ) -> Result<(), ImportsError> {
        self.check(file).await?;
        let part_bytes = self.inner.config.import_part_bytes;
        let job = Job { file_id: file.id, owner, plan, part_bytes, started_us: unix_now_us() };
        if self.inner.store.begin(&job).await? {
            place.0.send(job);
            return Ok(());
        }
        // It may have been noted by a request that never learned of it, and so never have come into the queue.
        let noted = self.inner.store.running(Some(file.id)).await?.into_iter().next();
        let noted = noted.filter(|noted| noted.plan.asks_as(&job.plan)).ok_or(ImportsError::Processed)?;
        place.0.send(noted);
        Ok(())
    }

    /// Refuses a file that holds no lines, as far as its beginning shows.
    async fn check(&self, file: &StoredFile) -> Result<(), ImportsError> {
        let opened = match self.inner.files.open(file).await {
            // Another service has it, or will find that it cannot be read.
            Err(FilesError::ContentMissing | FilesError::Disk(_)) => return Ok(()),
            opened => opened?,
        };
        let checked = tokio::task::spawn_blocking(move || Content::open(opened).map(|_| ())).await;
        checked
            .unwrap_or_else(|ended| Err(ImportsError::File(FilesError::Disk(std::io::Error::other(ended)))))
    }

    /// Stops the import of a file that is to be deleted: its lanes let go of it after the parts that are on their way.
    ///
    /// # Errors
    ///
    /// [`ImportsError::File`] if there is no such file of his, [`ImportsError::Database`].
    pub async fn stop(&self, owner: Option<Uuid>, file_id: Uuid) -> Result<(), ImportsError> {
        self.inner.files.find(owner, file_id).await?;
        Ok(self.inner.store.fail(file_id, STOPPED).await?)
    }

    /// How far the import of somebody's file is.
    ///
    /// # Errors
    ///
    /// [`ImportsError::File`] if there is no such file of his, [`ImportsError::NotProcessed`], [`ImportsError::Database`].
    pub async fn progress(&self, owner: Option<Uuid>, file_id: Uuid) -> Result<Progress, ImportsError> {
        self.inner.files.find(owner, file_id).await?;
        self.look(file_id).await
    }

    /// How far an import is, whose ever it is: for whoever was let see it before.
    ///
    /// # Errors
    ///
    /// [`ImportsError::NotProcessed`] if it is not there any more, [`ImportsError::Database`].
    pub async fn look(&self, file_id: Uuid) -> Result<Progress, ImportsError> {
        self.inner.store.progress(file_id).await?.ok_or(ImportsError::NotProcessed)
    }

    /// A turn to follow an import.
    ///
    /// # Errors
    ///
    /// [`ImportsError::TooManyFollow`].
    pub fn follow_turn(&self) -> Result<OwnedSemaphorePermit, ImportsError> {
        Arc::clone(&self.inner.followers).try_acquire_owned().map_err(|_| ImportsError::TooManyFollow)
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
