//! Uploaded files: rows in Postgres, contents in a folder by their hash.
//!
//! An upload is streamed into drafts, hashed and synced; then one transaction checks the owner's quota, moves the contents to
//! their places and adds the rows. A visible row therefore has its content. A crash leaves at most a draft or a content without
//! a row, which the sweeper removes.
//!
//! Files of records are kept in the same way: [`AttachmentUpload`] streams them into drafts, and the transaction that stores the record moves
//! their contents and adds their rows.

mod attachments;
mod content;
mod draft;
mod list;
mod media;
mod model;
mod previews;
mod receive;
mod store;
mod sweeper;
mod upload;
mod upload_turns;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

pub use attachments::{Attached, AttachedFile, Attachment, AttachmentUpload, Detach};
pub use list::FileQuery;
pub use media::has_binary;
pub use model::{ContentHash, StoredFile};
pub use previews::{Preview, PreviewSize};
pub use sweeper::Swept;
pub use upload::Upload;

use crate::config::{FilesConfig, limits};
use crate::db::{Database, DbError};
use crate::observe::Metrics;
use crate::paging::{InvalidParameter, Page};
use content::Contents;
use store::FileStore;
use upload_turns::UploadTurns;

/// Files, within a quota of the pool; cheap to clone.
#[derive(Debug, Clone)]
pub struct Files {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: FilesConfig,
    contents: Contents,
    store: FileStore,
    metrics: Arc<Metrics>,
    uploads: Arc<Semaphore>,
    record_uploads: UploadTurns,
    downloads: Arc<Semaphore>,
    previews: Arc<Semaphore>,
    /// Whether the folder is this database's, once that was checked.
    is_ours: OnceCell<bool>,
}

/// The settings of files.
#[derive(Debug)]
pub struct FilesSettings {
    /// Limits.
    pub config: FilesConfig,
    /// Downloads at once.
    pub max_downloads: usize,
    /// The folder of contents, created when it is needed.
    pub folder: PathBuf,
    /// Bytes of the folder's file system to leave free.
    pub min_free: u64,
}

/// The reason why an operation on files failed.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is no such file, or it belongs to another user.
    #[error("there is no such file")]
    NotFound,
    /// An invalid value.
    #[error("{message}")]
    Invalid {
        /// The part's or the parameter's name.
        field: &'static str,
        /// The valid values.
        message: &'static str,
    },
    /// A parameter of the list that cannot be accepted.
    #[error(transparent)]
    Parameter(#[from] InvalidParameter),
    /// The content is not of the declared type.
    #[error("the file was declared to be {declared} and is {found}")]
    TypeMismatch {
        /// The declared type.
        declared: String,
        /// The content's type.
        found: &'static str,
    },
    /// Larger than `MAX_FILE_BYTES`.
    #[error("the file is larger than {0} bytes (MAX_FILE_BYTES)")]
    TooLarge(u64),
    /// More files than an upload may have.
    #[error("the upload has more than {0} files")]
    TooManyFiles(usize),
    /// More than `FILE_QUOTA_BYTES`.
    #[error("your files would take more than {0} bytes (FILE_QUOTA_BYTES)")]
    QuotaExceeded(u64),
    /// The disk is full, or its rest is reserved for the journal.
    #[error("the disk is full; try again later")]
    DiskFull,
    /// The maximum number of operations is under way.
    #[error("as many {0} are under way as may be; try again later")]
    Overloaded(&'static str),
    /// The folder is that of another database.
    #[error("the folder of files belongs to another database; nothing is put into it")]
    OtherDatabase,
    /// The owner was deleted meanwhile.
    #[error("the owner is not there any more")]
    OwnerGone,
    /// The source of the bytes ended early.
    #[error("the file broke off before its end")]
    Source(#[source] io::Error),
    /// The content is not in the folder: another service stored it in a folder of its own, or it was removed.
    #[error("the file's content is not in this service's DATA_DIR/files")]
    ContentMissing,
    /// The folder of contents cannot be used.
    #[error("the folder of files cannot be used")]
    Disk(#[source] io::Error),
    /// Postgres' error.
    #[error("the database cannot be used")]
    Database(#[source] Box<DbError>),
}

impl FilesError {
    /// The error for a file without a name.
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
    /// The files of `database`, whose quota they use.
    pub fn new(settings: FilesSettings, database: &Database, metrics: &Arc<Metrics>) -> Self {
        let FilesSettings { config, max_downloads, folder, min_free } = settings;
        let inner = Inner {
            contents: Contents::new(folder, min_free),
            store: FileStore::new(database, database.statement_timeout()),
            metrics: Arc::clone(metrics),
            uploads: Arc::new(Semaphore::new(limits::MAX_UPLOADS)),
            record_uploads: UploadTurns::new(),
            downloads: Arc::new(Semaphore::new(max_downloads)),
            previews: Arc::new(Semaphore::new(previews::MAX_AT_ONCE)),
            is_ours: OnceCell::new(),
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The settings.
    pub fn config(&self) -> &FilesConfig {
        &self.inner.config
    }

    /// Begins an upload for `owner`, with the announced number of bytes.
    ///
    /// # Errors
    ///
    /// [`FilesError::Overloaded`], [`FilesError::DiskFull`], [`FilesError::OtherDatabase`], [`FilesError::QuotaExceeded`] if
    /// not even an empty file fits, [`FilesError::Database`].
    pub async fn begin(&self, owner: Option<Uuid>, announced: u64) -> Result<Upload, FilesError> {
        let permit = permit(&self.inner.uploads, "uploads")?;
        let contents = self.inner.contents.clone();
        blocking(move || contents.check_room(announced)).await?;
        // Checked first: a new folder's contents would be swept by the first database that claims it.
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
        Ok(Upload::new(self, owner, left, permit))
    }

    /// Whether the folder is that of this database; a new one is from now on. Checked once, as neither changes while the
    /// service runs.
    async fn is_ours(&self) -> Result<bool, FilesError> {
        let look = async || {
            let Some(database) = self.inner.store.id().await? else { return Ok(false) };
            let contents = self.inner.contents.clone();
            blocking(move || Ok(contents.belongs_to(database)?)).await
        };
        self.inner.is_ours.get_or_try_init(look).await.copied()
    }

    /// Stores one file: its name, its declared type, and its bytes as they come, with the announced number of bytes.
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
    /// [`FilesError::NotFound`] if there is none, or it is another user's; [`FilesError::Database`].
    pub async fn find(&self, owner: Option<Uuid>, id: Uuid) -> Result<StoredFile, FilesError> {
        self.inner.store.find(owner, id).await?.ok_or(FilesError::NotFound)
    }

    /// A page of the files of `owner`, newest first.
    ///
    /// # Errors
    ///
    /// [`FilesError::Database`].
    pub async fn list(&self, owner: Option<Uuid>, query: &FileQuery) -> Result<Page<StoredFile>, FilesError> {
        Ok(self.inner.store.list(owner, query).await?)
    }

    /// Deletes a file of `owner`. Its content goes with the next sweep, unless another file has it.
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

    /// Opens a file's content. It can be read to its end even if the file is deleted.
    ///
    /// # Errors
    ///
    /// [`FilesError::ContentMissing`], and [`FilesError::Disk`] if the content was changed.
    pub async fn open(&self, file: &StoredFile) -> Result<File, FilesError> {
        self.open_content(file.sha256, file.size).await
    }

    async fn open_content(&self, hash: ContentHash, size: u64) -> Result<File, FilesError> {
        let contents = self.inner.contents.clone();
        // Here no error of the folder means a full disk.
        let why = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => FilesError::ContentMissing,
            _ => FilesError::Disk(error),
        };
        blocking(move || contents.open(&hash, size).map_err(why)).await
    }

    /// A permit for a download, held until its end.
    ///
    /// # Errors
    ///
    /// [`FilesError::Overloaded`].
    pub fn download_permit(&self) -> Result<OwnedSemaphorePermit, FilesError> {
        permit(&self.inner.downloads, "downloads")
    }
}

fn permit(of: &Arc<Semaphore>, what: &'static str) -> Result<OwnedSemaphorePermit, FilesError> {
    Arc::clone(of).try_acquire_owned().map_err(|_| FilesError::Overloaded(what))
}

/// Runs disk operations on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, FilesError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) => Err(FilesError::Disk(io::Error::other(ended))),
    }
}
