//! Uploads: files that are stored together, all or none.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::draft::Draft;
use super::receive::complete;
use super::store::{NewFile, counted};
use super::{Files, FilesError, StoredFile, blocking, media, model};
use crate::config::limits;

/// An upload under way. Dropped before it is finished, it leaves nothing behind.
#[derive(Debug)]
pub struct Upload {
    files: Files,
    owner: Option<Uuid>,
    parts: Vec<(Draft, NewFile)>,
    /// The rest of the owner's quota, as known at the beginning; `None`: there is no quota.
    left: Option<u64>,
    _turn: OwnedSemaphorePermit,
}

impl Upload {
    pub(super) fn new(
        files: &Files,
        owner: Option<Uuid>,
        left: Option<u64>,
        turn: OwnedSemaphorePermit,
    ) -> Self {
        Self { files: files.clone(), owner, parts: Vec::new(), left, _turn: turn }
    }

    /// Adds a file: its name, its declared type, and its bytes as they come. At most 256 KiB of it, and one chunk of `source`,
    /// are held in memory.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; the upload is then to be dropped.
    pub async fn add<S>(&mut self, named: &str, declared: Option<&str>, source: S) -> Result<(), FilesError>
    where
        S: Stream<Item = io::Result<Bytes>> + Unpin,
    {
        if self.parts.len() >= limits::MAX_FILES_PER_UPLOAD {
            return Err(FilesError::TooManyFiles(limits::MAX_FILES_PER_UPLOAD));
        }
        let filename = model::file_name(named)?;
        let declared = declared.map(media::declared).transpose()?;
        let draft = self.files.receive(source, |size| self.check_size(size)).await?;
        let mime_type = media::judge(declared.as_ref(), draft.head())?;
        let size = draft.size();
        let (draft, sha256) = complete(draft).await?;
        self.left = self.left.map(|left| left.saturating_sub(counted(size)));
        self.parts.push((draft, NewFile { id: Uuid::new_v4(), filename, size, mime_type, sha256 }));
        Ok(())
    }

    fn check_size(&self, size: u64) -> Result<(), FilesError> {
        let config = &self.files.inner.config;
        if size > config.max_file_bytes {
            return Err(FilesError::TooLarge(config.max_file_bytes));
        }
        match self.left {
            Some(left) if counted(size) > left => Err(FilesError::QuotaExceeded(config.file_quota_bytes)),
            _ => Ok(()),
        }
    }

    /// Stores all files, or none.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; nothing is stored then, unless the answer to the commit was lost.
    pub async fn finish(self) -> Result<Vec<StoredFile>, FilesError> {
        let inner = &self.files.inner;
        if self.parts.is_empty() {
            return Err(FilesError::Invalid { field: "file", message: "there is no file in the upload" });
        }
        let (mut drafts, new): (Vec<Draft>, Vec<NewFile>) = self.parts.into_iter().unzip();
        let contents = inner.contents.clone();
        let hashes: Vec<_> = new.iter().map(|file| file.sha256).collect();
        let place = blocking(move || {
            for (draft, hash) in drafts.iter_mut().zip(&hashes) {
                contents.place(draft, hash)?;
            }
            Ok(())
        });
        let quota = (inner.config.file_quota_bytes > 0).then_some(inner.config.file_quota_bytes);
        let uploaded_at = inner.store.add(self.owner, quota, &new, place).await?;
        inner.metrics.files_stored(new.len(), new.iter().map(|file| file.size).sum());
        let stored = |file: NewFile| StoredFile {
            id: file.id,
            filename: file.filename,
            size: file.size,
            mime_type: file.mime_type,
            sha256: file.sha256,
            uploaded_at: uploaded_at.clone(),
            processed: false,
        };
        Ok(new.into_iter().map(stored).collect())
    }
}
