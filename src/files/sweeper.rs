//! Removes what no file has any more: drafts of processes that ended, contents whose last row was deleted, and those
//! that were put into place by an upload whose transaction failed.
//!
//! A content is removed under a lock of its own, in Postgres, which an upload of the same content holds from before it
//! looks for the content in the folder until its rows are committed. So either the upload sees that the content is gone and
//! puts it there again, or the sweeper sees its row. A lock in this process would not do: several may serve one folder.

use std::time::Duration;

use super::{Files, FilesError, blocking};

/// Contents that Postgres is asked about at once.
const ASKED_AT_ONCE: usize = 500;

/// What one sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Drafts that nobody wrote any more.
    pub drafts: usize,
    /// Contents that no file had.
    pub contents: usize,
}

impl Files {
    /// Sweeps at once and then every `FILES_SWEEP_S`, until it is dropped.
    pub async fn keep_swept(self) {
        let every = Duration::from_secs(self.inner.config.files_sweep_s);
        if every.is_zero() {
            return;
        }
        loop {
            match self.sweep().await {
                Ok(swept) if swept == Swept::default() => {}
                Ok(Swept { drafts, contents }) => {
                    tracing::info!(drafts, contents, "removed what no file has any more");
                }
                Err(error) => {
                    let error = error.with_sources();
                    tracing::warn!(
                        error,
                        "what no file has any more could not be removed; tried again later"
                    );
                }
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Sweeps once.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; what was removed until then is gone.
    pub async fn sweep(&self) -> Result<Swept, FilesError> {
        let inner = &self.inner;
        let contents = inner.contents.clone();
        if !blocking(move || Ok(contents.exists()?)).await? {
            return Ok(Swept::default());
        }
        let contents = inner.contents.clone();
        let mut swept = Swept { drafts: blocking(move || Ok(contents.sweep_drafts()?)).await?, contents: 0 };
        if !self.is_ours().await? {
            tracing::warn!(
                "DATA_DIR/files belongs to another database (its file `database`); nothing in it is removed"
            );
            return Ok(swept);
        }
        for first in 0..=u8::MAX {
            let contents = inner.contents.clone();
            let hashes = blocking(move || Ok(contents.list(first)?)).await?;
            for asked in hashes.chunks(ASKED_AT_ONCE) {
                for hash in inner.store.orphans(asked).await? {
                    let contents = inner.contents.clone();
                    let remove = blocking(move || Ok(contents.remove(&hash)?));
                    if inner.store.remove_orphan(hash, remove).await? {
                        swept.contents += 1;
                        inner.metrics.contents_swept.inc();
                    }
                }
            }
        }
        Ok(swept)
    }
}
