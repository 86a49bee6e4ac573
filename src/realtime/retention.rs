//! The retention of changes: deletes those older than `CHANGES_RETENTION_S`.
//!
//! It keeps the feed's position at intervals. What the newest position that is old enough saw is deleted, whatever the times of its rows: so
//! a subscriber with a newer position misses nothing.

use std::time::{Duration, Instant};

use super::store::{ChangeStore, DELETED_AT_ONCE, RetentionStore};
use crate::db::Database;
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

/// The pause behind a full batch, for other statements.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest interval between two batches that are not full: every reader has to read a change before it is deleted.
const INTERVAL: Duration = Duration::from_secs(10);
/// The longest interval between two positions.
const POSITIONS: Duration = Duration::from_secs(60);
/// The time of a statement that reads the position.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The wait after an error, which may last: a role that may not delete.
const AFTER_ERROR: Duration = Duration::from_secs(60);

/// Deletes old changes.
#[derive(Debug)]
pub struct ChangeRetention {
    store: RetentionStore,
    changes: ChangeStore,
    retention_s: f64,
    /// See [`Self::start`].
    idle_topics: Option<&'static str>,
    foreign_deleted: bool,
    /// When the last position was kept.
    kept: Option<Instant>,
}

impl ChangeRetention {
    /// Starts the task, for changes older than `retention_s` seconds. `idle_topics` is set if readers of the feed may be off on every node: a
    /// pattern of the topics that they read. Only changes of these topics are kept for them.
    pub fn start(
        database: &Database,
        retention_s: u64,
        idle_topics: Option<&'static str>,
        supervisor: &Supervisor,
    ) {
        let (store, changes) = (RetentionStore::new(database), ChangeStore::new(database, TIMEOUT));
        let task = Self {
            store,
            changes,
            retention_s: retention_s as f64,
            idle_topics,
            foreign_deleted: false,
            kept: None,
        };
        let interval = INTERVAL.min(task.interval_of_positions());
        supervisor.periodic("change-retention", interval, Backoff::fixed(AFTER_ERROR), task);
    }
}

impl ChangeRetention {
    /// A short retention needs closer positions.
    fn interval_of_positions(&self) -> Duration {
        Duration::from_secs((self.retention_s / 10.0) as u64).clamp(Duration::from_secs(1), POSITIONS)
    }
}

impl Step for ChangeRetention {
    async fn step(&mut self) -> Result<Next, StepError> {
        if !self.foreign_deleted {
            self.store.delete_foreign().await?;
            self.foreign_deleted = true;
        }
        if self.kept.is_none_or(|kept| kept.elapsed() >= self.interval_of_positions()) {
            let (_, seen) = self.changes.now().await?;
            if !self.store.keep_position(&seen, self.retention_s).await? {
                return Ok(Next::Interval);
            }
            self.kept = Some(Instant::now());
        }
        let deleted = self.store.delete_old(self.idle_topics).await?;
        Ok(if deleted == DELETED_AT_ONCE { Next::After(PAUSE) } else { Next::Interval })
    }
}
