//! Fills the index for search behind the writes: a reader of the feed that is never behind by more than a round and a lot.
//!
//! What is new it learns from the feed, so that adding a message costs nothing for it, whether by a request or by an import.
//! One node at a time works on it.

mod store;

use std::sync::Arc;
use std::time::Duration;

use crate::db::{Database, DbError};
use crate::observe::Metrics;
use store::IndexStore;

/// After an error.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// Fills the index.
#[derive(Debug)]
pub(super) struct Indexer {
    store: IndexStore,
    metrics: Arc<Metrics>,
    interval: Duration,
}

impl Indexer {
    /// Over a share of the pool; it looks for what is new at this interval.
    pub(super) fn new(share: &Database, metrics: &Arc<Metrics>, interval: Duration) -> Self {
        Self { store: IndexStore::new(share), metrics: Arc::clone(metrics), interval }
    }

    /// Goes round until it is dropped.
    pub(super) async fn run(self) {
        let mut is_failing = false;
        loop {
            let wait = match self.step().await {
                // What is left waits for those who ask something.
                Ok(true) => Duration::from_millis(1),
                Ok(false) => self.interval,
                // A conversation was deleted at this moment.
                Err(error) if error.is_rows_fault() => self.interval,
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(
                            error = error.with_sources(),
                            "search does not learn what is new; trying again"
                        );
                    }
                    tokio::time::sleep(AFTER_ERROR).await;
                    continue;
                }
            };
            is_failing = false;
            tokio::time::sleep(wait).await;
        }
    }

    /// Does a lot; whether there may be more.
    async fn step(&self) -> Result<bool, DbError> {
        let Some(step) = self.store.step().await? else { return Ok(false) };
        self.metrics.gauges.search_lag_seconds.set(step.lag_s.max(0.0));
        self.metrics.search_indexed.inc_by(step.documents);
        Ok(step.is_more)
    }
}
