//! Fills the index for search behind the writes: a reader of the feed that is never behind by more than a round and a lot.
//!
//! What is new it learns from the feed, so that adding a message costs nothing for it, whether by a request or by an import.
//! One node at a time works on it.

mod lot;
pub(super) mod query;
mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::db::{Database, DbError};
use crate::observe::Metrics;
use crate::realtime::Hub;
use crate::supervisor::{self, Backoff, Next, StepError, Supervisor};
use lot::{Size, rest_after};
use store::{IndexStore, Rebuilt, Step};

/// After an error.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// Between two looks while nothing is written here.
const LONGEST_IDLE: Duration = Duration::from_secs(30);

/// What to do after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// There may be more at hand.
    More,
    /// Something was new, or waits: look at each interval.
    Soon,
    /// There was nothing: look less and less often.
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
    /// Over a share of the pool; it looks for what is new at this interval.
    pub(super) fn new(share: &Database, metrics: &Arc<Metrics>, hub: &Hub, interval: Duration) -> Self {
        Self { store: IndexStore::new(share), metrics: Arc::clone(metrics), hub: hub.clone(), interval }
    }

    /// Starts the task.
    pub(super) fn start(self, supervisor: &Supervisor) {
        let idle = self.interval;
        let task = IndexTask { indexer: self, idle, size: Size::LEAST, rebuilding: Some(Size::LEAST) };
        supervisor.periodic("search", Duration::ZERO, Backoff::fixed(AFTER_ERROR), task);
    }

    /// Makes documents anew whose words are of an older form; the size of the next lot, or nothing once all are made.
    async fn rebuild(&self, size: Size) -> Result<Option<Size>, DbError> {
        let began = Instant::now();
        Ok(match self.store.rebuild(size).await? {
            Rebuilt::Lot { documents } => {
                self.metrics.search_indexed.inc_by(documents);
                Some(size.next(began.elapsed(), true))
            }
            Rebuilt::Last { documents } => {
                self.metrics.search_indexed.inc_by(documents);
                tracing::info!("search has made all its documents anew");
                None
            }
            // Another node works on the index; a rest from this one's side does no harm.
            Rebuilt::Busy => {
                tokio::time::sleep(self.interval).await;
                Some(size)
            }
            Rebuilt::Nothing => None,
        })
    }

    /// Indexes a batch.
    async fn index(&self, size: Size) -> Result<Found, DbError> {
        let Some(step) = self.store.step(size).await? else { return Ok(Found::Later) };
        self.metrics.gauges.search_lag_seconds.set(step.lag_s.unwrap_or_default().max(0.0));
        self.metrics.search_indexed.inc_by(step.documents);
        Ok(match step {
            Step { is_more: true, .. } => Found::More,
            // The end of the transaction that some change waits for wakes nobody.
            Step { changes: 1.., .. } | Step { lag_s: Some(_), .. } => Found::Soon,
            _ => Found::Later,
        })
    }
}

/// The indexer's steps: how much it takes at once, and how long it waits when there is nothing.
struct IndexTask {
    indexer: Indexer,
    idle: Duration,
    size: Size,
    /// The size of the next batch of documents of an older form; `None`: all are made anew.
    rebuilding: Option<Size>,
}

impl supervisor::Step for IndexTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let interval = self.indexer.interval;
        let began = Instant::now();
        // Kept only after a success: a batch may be too large for its time, or for a conversation that is deleted meanwhile.
        let size = std::mem::replace(&mut self.size, Size::LEAST);
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
            self.rebuilding = Some(Size::LEAST);
            self.rebuilding = match self.indexer.rebuild(size).await {
                Err(error) if error.is_rows_fault() => return Ok(Next::After(interval)),
                next => next?,
            };
            if self.rebuilding.is_some() {
                self.idle = interval;
                return Ok(Next::After(rest_after(began.elapsed())));
            }
        }
        // What this node writes wakes it. Others write for themselves, so a look by chance may come later and later, and
        // an idle service has no connections.
        tokio::time::sleep(interval).await;
        self.idle = tokio::select! {
            () = self.indexer.hub.written() => interval,
            () = tokio::time::sleep(self.idle) => (self.idle * 2).min(LONGEST_IDLE),
        };
        Ok(Next::Interval)
    }
}
