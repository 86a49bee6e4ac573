//! The inbox: appends that users' transactions made by `tidegate_append`, which a node moves into their streams once these have committed.
//!
//! * A row and its append are in one transaction: the row goes when its bytes come, so each is moved exactly once, whatever ends a node.
//! * One node moves rows at a time, in the order of their ids. A stream that something else has locked is left out for a moment, and delays no other.
//! * A row that cannot be moved (no such stream, closed, not its type) stays with the reason, and those behind it go on.

mod store;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::observe::Metrics;
use crate::streams::{StreamPath, Watches};
use crate::supervisor::{Next, Step, StepError};
pub(super) use store::InboxStore;

/// The interval between two looks while streams are watched, or rows have come a short time ago.
const INTERVAL: Duration = Duration::from_millis(100);
/// That time, which also follows a start.
const BUSY: Duration = Duration::from_secs(10);
/// The interval between two looks else, so that connections of an idle service are closed.
const IDLE_INTERVAL: Duration = Duration::from_secs(3);
/// The time for which the rows of a locked stream are left out.
const HELD: Duration = Duration::from_millis(200);
/// The interval between two counts for metrics and health.
const COUNTS: Duration = Duration::from_secs(5);

/// Moves rows of the inbox.
#[derive(Debug)]
pub(in crate::streams::postgres) struct InboxTask {
    store: InboxStore,
    metrics: Arc<Metrics>,
    watches: Watches,
    /// When rows were found last.
    used: Instant,
    /// Streams that were locked, and when they are tried again.
    held: HashMap<StreamPath, Instant>,
    next_counts: Instant,
}

/// The outcome of one transaction.
#[derive(Debug, Default)]
struct Moved {
    moved: usize,
    failed: Vec<FailedRow>,
    held: Vec<StreamPath>,
}

/// A row that cannot be moved.
#[derive(Debug)]
struct FailedRow {
    id: i64,
    path: String,
    error: String,
}

impl InboxTask {
    /// The interval of its steps.
    pub(in crate::streams::postgres) const INTERVAL: Duration = INTERVAL;

    pub(super) fn new(store: InboxStore, metrics: &Arc<Metrics>, watches: &Watches) -> Self {
        let (metrics, watches, now) = (Arc::clone(metrics), watches.clone(), Instant::now());
        Self { store, metrics, watches, used: now, held: HashMap::new(), next_counts: now }
    }

    /// The time until the next look, where there are no rows.
    fn pause(&self) -> Next {
        let is_busy = self.used.elapsed() < BUSY || !self.watches.is_empty();
        Next::After(if is_busy { INTERVAL } else { IDLE_INTERVAL })
    }

    async fn count(&mut self) -> Result<(), StepError> {
        let (waiting, failed) = self.store.counts().await?;
        let rows = &self.metrics.gauges.stream_inbox_rows;
        rows.with_label_values(&["waiting"]).set(waiting);
        rows.with_label_values(&["failed"]).set(failed);
        self.next_counts = Instant::now() + COUNTS;
        Ok(())
    }
}

impl Step for InboxTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let now = Instant::now();
        if now >= self.next_counts {
            self.count().await?;
        }
        if !self.store.has_rows().await? {
            return Ok(self.pause());
        }
        self.used = now;
        self.held.retain(|_, until| *until > now);
        let held: Vec<&str> = self.held.keys().map(StreamPath::as_str).collect();
        let Some(Moved { moved, failed, held }) = self.store.move_rows(&held).await? else {
            // Another node moves them.
            return Ok(Next::Interval);
        };
        self.metrics.stream_inbox.with_label_values(&["moved"]).inc_by(moved as u64);
        if let Some(FailedRow { id, path, error }) = failed.first() {
            self.metrics.stream_inbox.with_label_values(&["failed"]).inc_by(failed.len() as u64);
            self.next_counts = now;
            tracing::warn!(
                rows = failed.len(),
                first.id = id,
                first.path = path,
                first.error = error,
                "appends by tidegate_append cannot be moved to their streams; they stay in stream_inbox with the reason"
            );
        }
        let is_stuck = moved == 0 && failed.is_empty();
        self.held.extend(held.into_iter().map(|path| (path, now + HELD)));
        Ok(if is_stuck { Next::Interval } else { Next::After(Duration::ZERO) })
    }
}
