//! Files that users upload: rows in Postgres, contents in a folder by their hash.
//!
//! An upload is streamed into drafts, hashed on the way and synced; then one transaction holds the owner to his quota, puts
//! the contents into place and adds the rows. So a row that can be seen has its content, and what a crash leaves behind is
//! at most a draft or a content without a row, which the sweeper removes.

mod content;
mod draft;
mod list;
mod media;
mod model;
mod store;
mod sweeper;
mod upload;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

pub use list::{Listed, Page};
pub use media::has_binary;
pub use model::{ContentHash, StoredFile};
pub use sweeper::Swept;
pub use upload::Upload;

use crate::config::FilesConfig;
use crate::db::{Database, DbError};
use crate::observe::Metrics;
use content::Contents;
use store::Store;

/// Files, over a share of the pool; cheap to clone.
#[derive(Debug, Clone)]
pub struct Files {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: FilesConfig,
    contents: Contents,
    store: Store,
    metrics: Arc<Metrics>,
    uploads: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    /// Whether the folder is this database's, once that was looked at.
    is_ours: OnceCell<bool>,
}

/// What files are built from.
#[derive(Debug)]
pub struct FilesSettings {
    /// Limits.
    pub config: FilesConfig,
    /// The folder of contents; made when it is needed.
    pub folder: PathBuf,
    /// Bytes of the folder's file system that are left to others.
    pub min_free: u64,
}

/// Why something cannot be done with files.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is none of this id, or it is another's.
    #[error("there is no such file")]
    NotFound,
    /// A value that is not taken.
    #[error("{message}")]
    Invalid {
        /// The part's or the parameter's name.
        field: &'static str,
        /// What is taken.
        message: &'static str,
    },
    /// The content is not what was declared.
    #[error("the file was declared to be {declared} and is {found}")]
    TypeMismatch {
        /// The type that was declared.
        declared: String,
        /// What the content is.
        found: &'static str,
    },
    /// Larger than `MAX_FILE_BYTES`.
    #[error("the file is larger than {0} bytes (MAX_FILE_BYTES)")]
    TooLarge(u64),
    /// More than `MAX_FILES_PER_UPLOAD`.
    #[error("the upload has more than {0} files (MAX_FILES_PER_UPLOAD)")]
    TooManyFiles(usize),
    /// More than `FILE_QUOTA_BYTES`.
    #[error("your files would take more than {0} bytes (FILE_QUOTA_BYTES)")]
    QuotaExceeded(u64),
    /// The disk is full, or what is left of it is the journal's.
    #[error("the disk is full; try again later")]
    DiskFull,
    /// As many are under way as may be.
    #[error("as many {0} are under way as may be; try again later")]
    Overloaded(&'static str),
    /// The folder is that of another database.
    #[error("the folder of files belongs to another database; nothing is put into it")]
    OtherDatabase,
    /// Its owner was deleted meanwhile.
    #[error("the owner is not there any more")]
    OwnerGone,
    /// What the bytes came from broke off.
    #[error("the file broke off before its end")]
    Source(#[source] io::Error),
    /// Its content is not in the folder: another service took it in, into a folder of its own, or it was removed.
    #[error("the file's content is not in this service's DATA_DIR/files")]
    ContentMissing,
    /// The folder of contents cannot be used.
    #[error("the folder of files cannot be used")]
    Disk(#[source] io::Error),
    /// Postgres said no.
    #[error("the database cannot be used")]
    Database(#[source] Box<DbError>),
}

impl FilesError {
    /// A file without a name.
    pub fn nameless() -> Self {
        Self::Invalid { field: "filename", message: "a file needs a name" }
    }

    /// The error with its sources in one line.
    pub fn with_sources(&self) -> String {
        match self {
            Self::Database(error) => error.with_sources(),
            error => crate::db::chain(error),
        }
    }
}

impl From<DbError> for FilesError {
    fn from(error: DbError) -> Self {
        match error.constraint() {
            Some("files_owner_fkey") => Self::OwnerGone,
            _ => Self::Database(Box::new(error)),
        }
    }
}

impl From<io::Error> for FilesError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Disk(error),
        }
    }
}

impl Files {
    /// Files of `database`, a share of the pool.
    pub fn new(settings: FilesSettings, database: &Database, metrics: &Arc<Metrics>) -> Self {
        let FilesSettings { config, folder, min_free } = settings;
        let inner = Inner {
            contents: Contents::new(folder, min_free),
            store: Store::new(database, Duration::from_millis(config.files_timeout_ms)),
            metrics: Arc::clone(metrics),
            uploads: Arc::new(Semaphore::new(config.max_uploads)),
            downloads: Arc::new(Semaphore::new(config.max_downloads)),
            is_ours: OnceCell::new(),
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The limits.
    pub fn config(&self) -> &FilesConfig {
        &self.inner.config
    }

    /// Begins an upload for `owner`, of which so many bytes are announced.
    ///
    /// # Errors
    ///
    /// [`FilesError::Overloaded`], [`FilesError::DiskFull`], [`FilesError::OtherDatabase`],
    /// [`FilesError::QuotaExceeded`] if nothing more may be added at all, [`FilesError::Database`].
    pub async fn begin(&self, owner: Option<Uuid>, announced: u64) -> Result<Upload, FilesError> {
        let turn = turn(&self.inner.uploads, "uploads")?;
        let contents = self.inner.contents.clone();
        blocking(move || contents.check_room(announced)).await?;
        // Before anything is put into it: what a folder that is nobody's holds would be cleared by whoever comes first.
        if !self.is_ours().await? {
            return Err(FilesError::OtherDatabase);
        }
        let quota = self.inner.config.file_quota_bytes;
        let left = match quota {
            0 => None,
            quota => Some(quota.saturating_sub(self.inner.store.usage(owner).await?)),
        };
        if left.is_some_and(|left| left < store::LEAST_COUNTED) {
            return Err(FilesError::QuotaExceeded(quota));
        }
        Ok(Upload::new(self, owner, left, turn))
    }

    /// Whether the folder is that of this database; one that is nobody's is from now on. Asked for once, as neither of them
    /// changes while the service runs.
    async fn is_ours(&self) -> Result<bool, FilesError> {
        let look = async || {
            let Some(database) = self.inner.store.id().await? else { return Ok(false) };
            let contents = self.inner.contents.clone();
            blocking(move || Ok(contents.belongs_to(database)?)).await
        };
        self.inner.is_ours.get_or_try_init(look).await.copied()
    }

    /// Stores one file: what it is `named` and which type was `declared`, and its bytes as they come, of which so many are
    /// announced.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; nothing is stored then, unless the answer to the commit was lost.
    pub async fn keep<S>(
        &self,
        owner: Option<Uuid>,
        named: &str,
        declared: Option<&str>,
        announced: u64,
        source: S,
    ) -> Result<StoredFile, FilesError>
    where
        S: Stream<Item = io::Result<Bytes>> + Unpin,
    {
        let mut upload = self.begin(owner, announced).await?;
        upload.add(named, declared, source).await?;
        upload.finish().await?.into_iter().next().ok_or(FilesError::NotFound)
    }

    /// A file of `owner`.
    ///
    /// # Errors
    ///
    /// [`FilesError::NotFound`] if there is none, or it is another's; [`FilesError::Database`].
    pub async fn find(&self, owner: Option<Uuid>, id: Uuid) -> Result<StoredFile, FilesError> {
        self.inner.store.find(owner, id).await?.ok_or(FilesError::NotFound)
    }

    /// A page of the files of `owner`, newest first.
    ///
    /// # Errors
    ///
    /// [`FilesError::Database`].
    pub async fn list(&self, owner: Option<Uuid>, page: &Page) -> Result<Listed, FilesError> {
        Ok(self.inner.store.list(owner, page).await?)
    }

    /// Deletes a file of `owner`. Its content goes with the next sweep, if nobody else has it.
    ///
    /// # Errors
    ///
    /// As [`Files::find`].
    pub async fn delete(&self, owner: Option<Uuid>, id: Uuid) -> Result<(), FilesError> {
        match self.inner.store.delete(owner, id).await? {
            true => Ok(()),
            false => Err(FilesError::NotFound),
        }
    }

    /// Opens a file's content for reading. Once open it can be read to its end, though the file be deleted.
    ///
    /// # Errors
    ///
    /// [`FilesError::ContentMissing`], and [`FilesError::Disk`] if what is there is not what was stored.
    pub async fn open(&self, file: &StoredFile) -> Result<File, FilesError> {
        let (contents, hash, size) = (self.inner.contents.clone(), file.sha256, file.size);
        // Whatever is wrong with the folder now has nothing to do with room.
        let why = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => FilesError::ContentMissing,
            _ => FilesError::Disk(error),
        };
        blocking(move || contents.open(&hash, size).map_err(why)).await
    }

    /// A turn to send a file; held until it is sent.
    ///
    /// # Errors
    ///
    /// [`FilesError::Overloaded`].
    pub fn download_turn(&self) -> Result<OwnedSemaphorePermit, FilesError> {
        turn(&self.inner.downloads, "downloads")
    }
}

fn turn(of: &Arc<Semaphore>, what: &'static str) -> Result<OwnedSemaphorePermit, FilesError> {
    Arc::clone(of).try_acquire_owned().map_err(|_| FilesError::Overloaded(what))
}

/// Runs what waits for the disk on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, FilesError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) => Err(FilesError::Disk(io::Error::other(ended))),
    }
}
