//! Uploads: files that are stored together, all or none.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::draft::Draft;
use super::store::{NewFile, counted};
use super::{Files, FilesError, StoredFile, blocking, media, model};
use crate::config::limits;

/// Bytes collected before a write.
const BUFFER_BYTES: usize = 256 * 1024;

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
    pub async fn add<S>(
        &mut self,
        named: &str,
        declared: Option<&str>,
        mut source: S,
    ) -> Result<(), FilesError>
    where
        S: Stream<Item = io::Result<Bytes>> + Unpin,
    {
        if self.parts.len() >= limits::MAX_FILES_PER_UPLOAD {
            return Err(FilesError::TooManyFiles(limits::MAX_FILES_PER_UPLOAD));
        }
        let filename = model::file_name(named)?;
        let declared = declared.map(media::declared).transpose()?;
        let contents = self.files.inner.contents.clone();
        let mut draft = blocking(move || Ok(contents.draft()?)).await?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        let mut size = 0_u64;
        while let Some(piece) = source.next().await {
            let piece = piece.map_err(FilesError::Source)?;
            size += piece.len() as u64;
            self.check_size(size)?;
            if buffer.len() + piece.len() > BUFFER_BYTES {
                (draft, buffer) = self.write(draft, buffer).await?;
            }
            buffer.extend_from_slice(&piece);
        }
        self.check_size(size)?;
        (draft, _) = self.write(draft, buffer).await?;
        let mime_type = media::judge(declared.as_ref(), draft.head())?;
        let (draft, sha256) = blocking(move || {
            let hash = draft.complete()?;
            Ok((draft, hash))
        })
        .await?;
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

    /// Writes collected bytes on a blocking thread.
    async fn write(&self, mut draft: Draft, mut buffer: Vec<u8>) -> Result<(Draft, Vec<u8>), FilesError> {
        let contents = self.files.inner.contents.clone();
        blocking(move || {
            if draft.write(&buffer)? {
                contents.check_room(0)?;
            }
            buffer.clear();
            Ok((draft, buffer))
        })
        .await
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
