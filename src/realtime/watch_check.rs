//! The check of watched tables: follows new partitions, altered columns, renamed and dropped tables.
//!
//! The functions of the triggers notice most of it themselves, and convert rows as the table is now, which takes longer. The check generates
//! them anew. Partitions and inheriting tables that are new have no triggers before it has found them.

use std::time::{Duration, Instant};

use super::store::WatchStore;
use crate::config::limits;
use crate::db::Database;
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

/// The interval between two checks, and after a failure.
const INTERVAL: Duration = Duration::from_secs(limits::WATCH_CHECK_S);
/// The shortest wait, as a multiple of the duration of the checks.
const LEAST_PAUSE: u32 = 20;

/// Checks the watched tables. Every node does; what one has done, the others find done.
#[derive(Debug)]
pub struct WatchCheck {
    store: WatchStore,
}

impl WatchCheck {
    /// Starts the task.
    pub fn start(database: &Database, supervisor: &Supervisor) {
        let check = Self { store: WatchStore::new(database) };
        supervisor.periodic("watched-tables", INTERVAL, Backoff::fixed(INTERVAL), check);
    }
}

impl Step for WatchCheck {
    async fn step(&mut self) -> Result<Next, StepError> {
        let begun = Instant::now();
        let mut failures = Vec::new();
        for id in self.store.ids().await? {
            // Of each table in a transaction of its own: its locks are held as briefly as possible.
            match self.store.check(id).await {
                Ok(messages) => {
                    for (message, is_failure) in messages {
                        match is_failure {
                            true => failures.push(message),
                            false => tracing::info!("watched tables: {message}"),
                        }
                    }
                }
                // Another node checks it, or a statement of a user holds its lock.
                Err(error) if error.is_locked() => {}
                Err(error) => failures.push(error.with_sources()),
            }
        }
        if !failures.is_empty() {
            return Err(StepError::new(failures.join("; ")));
        }
        Ok(Next::After(INTERVAL.max(begun.elapsed() * LEAST_PAUSE)))
    }
}
