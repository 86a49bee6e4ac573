//! Contents on their way into drafts.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::draft::Draft;
use super::{ContentHash, Files, FilesError, blocking};

/// Bytes collected before a write.
const BUFFER_BYTES: usize = 256 * 1024;

impl Files {
    /// Writes the bytes of a source into a new draft. At most 256 KiB of them, and one chunk of the source, are held in memory. `check` gets
    /// the number of bytes after each chunk.
    pub(super) async fn receive<S>(
        &self,
        mut source: S,
        check: impl Fn(u64) -> Result<(), FilesError>,
    ) -> Result<Draft, FilesError>
    where
        S: Stream<Item = io::Result<Bytes>> + Unpin,
    {
        let contents = self.inner.contents.clone();
        let mut draft = blocking(move || Ok(contents.draft()?)).await?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        let mut size = 0_u64;
        while let Some(piece) = source.next().await {
            let piece = piece.map_err(FilesError::Source)?;
            size += piece.len() as u64;
            check(size)?;
            if buffer.len() + piece.len() > BUFFER_BYTES {
                (draft, buffer) = self.write(draft, buffer).await?;
            }
            buffer.extend_from_slice(&piece);
        }
        check(size)?;
        let (draft, _) = self.write(draft, buffer).await?;
        Ok(draft)
    }

    /// Writes collected bytes on a blocking thread.
    async fn write(&self, mut draft: Draft, mut buffer: Vec<u8>) -> Result<(Draft, Vec<u8>), FilesError> {
        let contents = self.inner.contents.clone();
        blocking(move || {
            if draft.write(&buffer)? {
                contents.check_room(0)?;
            }
            buffer.clear();
            Ok((draft, buffer))
        })
        .await
    }
}

/// Syncs a draft; returns its content's hash.
pub(super) async fn complete(mut draft: Draft) -> Result<(Draft, ContentHash), FilesError> {
    blocking(move || {
        let hash = draft.complete()?;
        Ok((draft, hash))
    })
    .await
}
