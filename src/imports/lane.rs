//! The lanes of an import: each stores one part after the other, with retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::model::ImportJob;
use super::part::Part;
use super::store::ImportStore;
use super::stored_parts::StoredParts;
use super::write::PartOutcome;
use crate::conversations::Conversations;
use crate::db::DbError;
use crate::ingest::{BatchHook, WriteVerdict as Verdict};
use crate::observe::{LogThrottle, Metrics};

/// The first wait before a retry, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
static RETRIES: LogThrottle = LogThrottle::new();

/// The state shared by the lanes of an import.
#[derive(Debug)]
pub(super) struct LaneContext {
    pub(super) job: ImportJob,
    pub(super) store: ImportStore,
    pub(super) parts: async_channel::Receiver<Part>,
    pub(super) stored_parts: StoredParts,
    /// Lines rejected so far.
    pub(super) rejected: AtomicU64,
    /// The maximum of rejected lines that are recorded.
    pub(super) max_rejected: u64,
    /// `None`: they are off, and no part has any.
    pub(super) conversations: Option<Conversations>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) hook: Arc<dyn BatchHook>,
}

/// The reason why an import ends before its last part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ImportEnd {
    /// Its row is gone.
    Gone,
    /// Postgres rejects a part for a reason that concerns no single line.
    Refused(String),
}

/// The reason for clients. Postgres' own message may quote values of others.
pub(super) fn refused(error: &DbError) -> String {
    if error.is_dropped_by_trigger() {
        return "a trigger of the database dropped rows of a part of the file".to_owned();
    }
    format!("Postgres refused a part of the file (SQLSTATE {})", error.state_code().unwrap_or_default())
}

impl LaneContext {
    /// Stores parts until there are no more.
    pub(super) async fn run(&self) -> Result<(), ImportEnd> {
        while let Ok(part) = self.parts.recv().await {
            if let Err(ended) = self.write(&part).await {
                // The other lanes end after their current parts. Those that wait for this part go on without it, and get the
                // same error.
                self.parts.close();
                self.stored_parts.stored(part.number);
                return Err(ended);
            }
            self.stored_parts.stored(part.number);
        }
        Ok(())
    }

    async fn write(&self, part: &Part) -> Result<(), ImportEnd> {
        let mut pause = FIRST_PAUSE;
        loop {
            let noted = self.max_rejected.saturating_sub(self.rejected.load(Ordering::Relaxed)) as usize;
            let is_next = self.stored_parts.is_next(part.number);
            let error = match self.store.write(&self.job, part, is_next, noted).await {
                Ok(PartOutcome::Stored { stored, rejected }) => {
                    self.rejected.fetch_add(rejected, Ordering::Relaxed);
                    self.metrics.import_stored(stored, rejected);
                    if let Some(conversations) = self.conversations.as_ref().filter(|_| part.speaks()) {
                        conversations.wake();
                    }
                    return Ok(());
                }
                Ok(PartOutcome::AlreadyStored) => return Ok(()),
                Ok(PartOutcome::Gone) => return Err(ImportEnd::Gone),
                Ok(PartOutcome::Early) => {
                    self.stored_parts.wait_for(part.number).await;
                    continue;
                }
                Err(error)
                    if (error.is_cancelled()
                        || matches!(error, DbError::Timeout(_)) && self.hook.runs_statements())
                        && self.hook.cancelled(&error).await =>
                {
                    continue;
                }
                Err(error) => error,
            };
            let file = self.job.file_id;
            if error.is_dropped_by_trigger() || Verdict::on(&error) == Verdict::Bisect {
                tracing::error!(%file, part = part.number, error = error.with_sources(), "Postgres rejects a part of an import");
                return Err(ImportEnd::Refused(refused(&error)));
            }
            if let Some(left_out) = RETRIES.ready() {
                let error = error.with_sources();
                tracing::warn!(%file, part = part.number, error, left_out, "a part of an import was not stored; it is retried");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
