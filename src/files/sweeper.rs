//! Removes what no file has any more: drafts of processes that ended, contents whose last row was deleted, and those
//! that were put into place by an upload whose transaction failed.
//!
//! A content is removed under a lock of its own, in Postgres, which an upload of the same content holds from before it
//! looks for the content in the folder until its rows are committed. So either the upload sees that the content is gone and
//! puts it there again, or the sweeper sees its row. A lock in this process would not do: several may serve one folder.

use std::time::Duration;

use super::{Files, FilesError, blocking};
use crate::supervisor::{Backoff, Next, StepError, Supervisor};

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
    /// Starts the task that sweeps at once and then every `FILES_SWEEP_S`; with 0 there is none.
    pub fn keep_swept(&self, supervisor: &Supervisor) {
        let interval = Duration::from_secs(self.inner.config.files_sweep_s);
        if interval.is_zero() {
            return;
        }
        let files = self.clone();
        supervisor.periodic("file-sweeper", interval, Backoff::fixed(interval), move || {
            let files = files.clone();
            async move {
                let swept = files.sweep().await.map_err(|error| StepError::new(error.with_sources()))?;
                if swept != Swept::default() {
                    let Swept { drafts, contents } = swept;
                    tracing::info!(drafts, contents, "removed unreferenced drafts and contents");
                }
                Ok(Next::Interval)
            }
        });
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
