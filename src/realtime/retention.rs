//! The retention of changes: deletes those older than `CHANGES_RETENTION_S`.

use std::time::Duration;

use super::store::{DELETED_AT_ONCE, RetentionStore};
use crate::db::Database;
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

/// The pause behind a full batch, for other statements.
const PAUSE: Duration = Duration::from_millis(50);
/// The interval behind a smaller one.
const INTERVAL: Duration = Duration::from_secs(10);
/// The wait after an error, which may last: a role that may not delete.
const AFTER_ERROR: Duration = Duration::from_secs(60);

/// Deletes old changes.
#[derive(Debug)]
pub struct ChangeRetention {
    store: RetentionStore,
    retention_s: f64,
    foreign_deleted: bool,
}

impl ChangeRetention {
    /// Starts the task, for changes older than so many seconds.
    pub fn start(database: &Database, retention_s: u64, supervisor: &Supervisor) {
        let store = RetentionStore::new(database);
        let task = Self { store, retention_s: retention_s as f64, foreign_deleted: false };
        supervisor.periodic("change-retention", INTERVAL, Backoff::fixed(AFTER_ERROR), task);
    }
}

impl Step for ChangeRetention {
    async fn step(&mut self) -> Result<Next, StepError> {
        if !self.foreign_deleted {
            self.store.delete_foreign().await?;
            self.foreign_deleted = true;
        }
        let deleted = self.store.delete_old(self.retention_s).await?;
        Ok(if deleted == DELETED_AT_ONCE { Next::After(PAUSE) } else { Next::Interval })
    }
}
