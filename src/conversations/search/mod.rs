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
use lot::{Size, rest_after};
use store::{IndexStore, Rebuilt, Step};

/// After an error.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// Between two looks while nothing is written here.
const LONGEST_IDLE: Duration = Duration::from_secs(30);

/// What to do after a lot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
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

    /// Goes round until it is dropped.
    pub(super) async fn run(self) {
        let (mut is_failing, mut idle, mut size) = (false, self.interval, Size::LEAST);
        let mut rebuilding = Some(Size::LEAST);
        loop {
            let began = Instant::now();
            let mut stepped = self.step(size).await;
            let took = began.elapsed();
            size = match stepped {
                Ok(next) => size.next(took, next == Next::More),
                // It may have been too large: for its time, or for a conversation that was deleted meanwhile.
                Err(_) => Size::LEAST,
            };
            // What is new comes first.
            if let (Ok(Next::Soon | Next::Later), Some(size)) = (&stepped, rebuilding) {
                match self.rebuild(size).await {
                    Ok(next) => rebuilding = next,
                    Err(error) => {
                        rebuilding = Some(Size::LEAST);
                        stepped = Err(error);
                    }
                }
            }
            match stepped {
                // The rest of a rebuild waits for no interval.
                Ok(Next::Soon | Next::Later) if rebuilding.is_some() => {
                    idle = self.interval;
                    tokio::time::sleep(rest_after(began.elapsed())).await;
                }
                Ok(Next::More) => {
                    idle = self.interval;
                    tokio::time::sleep(rest_after(took)).await;
                }
                Ok(next) => {
                    if next == Next::Soon {
                        idle = self.interval;
                    }
                    // What this node writes wakes it. Others write for themselves, so a look by chance may come later and later, and
                    // an idle service has no connections.
                    tokio::time::sleep(self.interval).await;
                    tokio::select! {
                        () = self.hub.written() => idle = self.interval,
                        () = tokio::time::sleep(idle) => idle = (idle * 2).min(LONGEST_IDLE),
                    }
                }
                // A conversation was deleted at this moment.
                Err(error) if error.is_rows_fault() => tokio::time::sleep(self.interval).await,
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
            }
            is_failing = false;
        }
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

    /// Does a lot.
    async fn step(&self, size: Size) -> Result<Next, DbError> {
        let Some(step) = self.store.step(size).await? else { return Ok(Next::Later) };
        self.metrics.gauges.search_lag_seconds.set(step.lag_s.unwrap_or_default().max(0.0));
        self.metrics.search_indexed.inc_by(step.documents);
        Ok(match step {
            Step { is_more: true, .. } => Next::More,
            // The end of the transaction that some change waits for wakes nobody.
            Step { changes: 1.., .. } | Step { lag_s: Some(_), .. } => Next::Soon,
            _ => Next::Later,
        })
    }
}
