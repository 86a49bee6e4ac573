//! The sweeper of unused files: drafts of ended processes, contents whose last row was deleted, and contents of uploads whose
//! transaction failed.
//!
//! A content is removed under a lock of its own in Postgres. An upload of the same content holds that lock from before it looks
//! for the content in the folder until its rows are committed. So either the upload sees that the content is gone and stores it
//! again, or the sweeper sees its row. A lock in this process would not suffice: several services may share a folder.

use std::time::Duration;

use super::{Files, FilesError, blocking};
use crate::supervisor::{Backoff, Next, StepError, Supervisor};

/// Contents per query.
const ASKED_AT_ONCE: usize = 500;

/// The result of one sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Abandoned drafts.
    pub drafts: usize,
    /// Contents without a file.
    pub contents: usize,
}

impl Files {
    /// Starts the task that sweeps at once and then every `FILES_SWEEP_S`; 0: no task.
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
    /// [`FilesError`]; contents removed until then are gone.
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
            let contents = inner.contents.clone();
            blocking(move || Ok(contents.sweep_previews(first)?)).await?;
        }
        Ok(swept)
    }
}
