//! Fills the search index behind the writes, as a reader of the feed.
//!
//! It learns of new messages from the feed, so that search adds no cost to a write, be it a request or an import. One node at a time works
//! on the index.

mod batch;
pub(super) mod query;
mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::db::{Database, DbError};
use crate::observe::Metrics;
use crate::realtime::Hub;
use crate::supervisor::{self, Backoff, Next, StepError, Supervisor};
use batch::{BatchSize, rest_after};
use store::{IndexStore, Rebuilt, Step};

/// After an error.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// The longest time between two polls while this node writes nothing.
const LONGEST_IDLE: Duration = Duration::from_secs(30);

/// The outcome of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// More can be indexed at once.
    More,
    /// Something was indexed, or waits: poll at each interval.
    Soon,
    /// There was nothing: poll less and less often.
    Later,
}

/// Fills the index.
#[derive(Debug)]
pub(super) struct Indexer {
    store: IndexStore,
    metrics: Arc<Metrics>,
    hub: Hub,
    interval: Duration,
}

impl Indexer {
    /// An indexer over `database`, which polls at this interval.
    pub(super) fn new(database: &Database, metrics: &Arc<Metrics>, hub: &Hub, interval: Duration) -> Self {
        Self { store: IndexStore::new(database), metrics: Arc::clone(metrics), hub: hub.clone(), interval }
    }

    /// Starts the task.
    pub(super) fn start(self, supervisor: &Supervisor) {
        let idle = self.interval;
        let task =
            IndexTask { indexer: self, idle, size: BatchSize::LEAST, rebuilding: Some(BatchSize::LEAST) };
        supervisor.periodic("search", Duration::ZERO, Backoff::fixed(AFTER_ERROR), task);
    }

    /// Rebuilds documents of an older form; returns the size of the next batch. `None`: all are rebuilt.
    async fn rebuild(&self, size: BatchSize) -> Result<Option<BatchSize>, DbError> {
        let began = Instant::now();
        Ok(match self.store.rebuild(size).await? {
            Rebuilt::Batch { documents } => {
                self.metrics.search_indexed.inc_by(documents);
                Some(size.next(began.elapsed(), true))
            }
            Rebuilt::Last { documents } => {
                self.metrics.search_indexed.inc_by(documents);
                tracing::info!("all search documents are rebuilt");
                None
            }
            // Another node works on the index.
            Rebuilt::Busy => {
                tokio::time::sleep(self.interval).await;
                Some(size)
            }
            Rebuilt::Nothing => None,
        })
    }

    /// Indexes a batch.
    async fn index(&self, size: BatchSize) -> Result<Found, DbError> {
        let Some(step) = self.store.step(size).await? else { return Ok(Found::Later) };
        self.metrics.gauges.search_lag_seconds.set(step.lag_s.unwrap_or_default().max(0.0));
        self.metrics.search_indexed.inc_by(step.documents);
        Ok(match step {
            Step { is_more: true, .. } => Found::More,
            Step { changes: 1.., .. } | Step { lag_s: Some(_), .. } => Found::Soon,
            _ => Found::Later,
        })
    }
}

/// The indexer's steps, with the batch size and the wait for new changes.
struct IndexTask {
    indexer: Indexer,
    idle: Duration,
    size: BatchSize,
    /// The size of the next batch of documents of an older form. `None`: all are rebuilt.
    rebuilding: Option<BatchSize>,
}

impl supervisor::Step for IndexTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let interval = self.indexer.interval;
        let began = Instant::now();
        // Kept only after a success: a batch may be too large for its time, or hold a conversation that is deleted meanwhile.
        let size = std::mem::replace(&mut self.size, BatchSize::LEAST);
        let found = match self.indexer.index(size).await {
            // A conversation was deleted at this moment.
            Err(error) if error.is_rows_fault() => return Ok(Next::After(interval)),
            found => found?,
        };
        let took = began.elapsed();
        self.size = size.next(took, found == Found::More);
        if found != Found::Later {
            self.idle = interval;
        }
        if found == Found::More {
            return Ok(Next::After(rest_after(took)));
        }
        // New messages come first. The rest of a rebuild waits for no interval.
        if let Some(size) = self.rebuilding {
            self.rebuilding = Some(BatchSize::LEAST);
            self.rebuilding = match self.indexer.rebuild(size).await {
                Err(error) if error.is_rows_fault() => return Ok(Next::After(interval)),
                next => next?,
            };
            if self.rebuilding.is_some() {
                self.idle = interval;
                return Ok(Next::After(rest_after(began.elapsed())));
            }
        }
        // Writes of this node wake the indexer. Other nodes index their own, so polls may come later and later, and an idle service has no
        // connections.
        tokio::time::sleep(interval).await;
        self.idle = tokio::select! {
            () = self.indexer.hub.written() => interval,
            () = tokio::time::sleep(self.idle) => (self.idle * 2).min(LONGEST_IDLE),
        };
        Ok(Next::Interval)
    }
}
