//! Wake-ups between nodes: hints by the feed of changes that streams have changed.
//!
//! ```text
//! commits here ─▶ WakeWriter ─▶ changes ─▶ feed ─▶ WakeReader elsewhere ─▶ one verified read a stream ─▶ its watches
//! ```
//!
//! A wake-up carries no data, and order is that of offsets; so a wake-up may be lost, as when a node is killed behind a commit. Watched streams are
//! therefore verified now and then as well. Wake-ups are not part of the transaction of an append, but follow it: a row for all streams that changed
//! within a moment costs the appends nothing.

mod store;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::heads::{HeadReads, KnownStreams, Status};
use crate::realtime::{self, Realtime, Subscription};
use crate::streams::{StreamPath, Watches};
use crate::supervisor::{Next, Step, StepError};
pub(super) use store::WakeStore;

/// The topic of wake-ups.
const TOPIC: &str = "streams:changed";
/// The least time between two rows.
const GAP: Duration = Duration::from_millis(20);
/// Paths of one row.
const MAX_PATHS: usize = 1_000;
/// The time between two looks for a first watch.
const IDLE: Duration = Duration::from_millis(50);
/// The time between two checks of watched streams that wake-ups may have missed, and how many are checked.
const CHECK: Duration = Duration::from_secs(1);
const MAX_CHECKED: usize = 10_000;
/// Streams that are verified at once.
const PAGE: usize = 256;

/// Writes wake-ups.
#[derive(Debug)]
pub(super) struct WakeWriter {
    pub(super) changed: UnboundedReceiver<StreamPath>,
    pub(super) store: WakeStore,
}

impl Step for WakeWriter {
    async fn step(&mut self) -> Result<Next, StepError> {
        let Some(first) = self.changed.recv().await else { return std::future::pending().await };
        let mut paths = HashSet::from([first]);
        while paths.len() < MAX_PATHS
            && let Ok(path) = self.changed.try_recv()
        {
            paths.insert(path);
        }
        let paths: Vec<&str> = paths.iter().map(StreamPath::as_str).collect();
        self.store.write(&paths).await?;
        Ok(Next::After(GAP))
    }
}

/// Reads wake-ups of other nodes, while there are watches.
#[derive(Debug)]
pub(super) struct WakeReader {
    pub(super) realtime: Realtime,
    pub(super) heads: Arc<HeadReads>,
    pub(super) known: Arc<KnownStreams>,
    pub(super) watches: Watches,
    /// The name of this node, whose own wake-ups are skipped.
    pub(super) node: Arc<str>,
    pub(super) subscription: Option<Subscription>,
    /// The next check, and the last path of the last one.
    pub(super) check: Instant,
    pub(super) checked: Option<StreamPath>,
}

impl WakeReader {
    /// Verifies streams, and wakes the watches of those that have changed, or of all.
    async fn verify(&self, paths: &[StreamPath], wakes_all: bool) -> Result<(), StepError> {
        for page in paths.chunks(PAGE) {
            let read = join_all(page.iter().map(|path| self.heads.get(path))).await;
            for (path, stream) in page.iter().zip(read) {
                let stream = stream.map_err(|error| StepError::new(error.to_string()))?;
                let before = self.known.get(path).map(|known| {
                    let head = known.head();
                    (head.id, head.tail, head.closed)
                });
                let now = match stream.filter(|stream| stream.status == Status::Living) {
                    Some(stream) => {
                        self.known.note(&stream);
                        Some((stream.head.id, stream.head.tail, stream.head.closed))
                    }
                    None => {
                        self.known.forget(path, None);
                        None
                    }
                };
                // What is known here may be newer than what was read.
                if wakes_all || before != now {
                    self.watches.wake(path);
                }
            }
        }
        Ok(())
    }

    /// Checks watched streams, in turn.
    async fn check(&mut self) -> Result<(), StepError> {
        self.check = Instant::now() + CHECK;
        let mut paths = self.watches.paths();
        paths.sort_unstable();
        let start = self.checked.as_ref().map_or(0, |last| paths.partition_point(|path| path <= last));
        let start = start.min(paths.len());
        paths.rotate_left(start);
        paths.truncate(MAX_CHECKED);
        self.checked = paths.last().cloned();
        self.verify(&paths, false).await
    }

    /// Wakes the watches of the streams that a change names.
    async fn wake(&self, change: &realtime::Change) -> Result<(), StepError> {
        if *change.record == *self.node {
            return Ok(());
        }
        let paths: Vec<String> = serde_json::from_str(&change.data).unwrap_or_default();
        let paths = paths.iter().filter_map(|path| StreamPath::new(path).ok());
        let watched: Vec<StreamPath> = paths.filter(|path| self.watches.has(path)).collect();
        self.verify(&watched, false).await
    }
}

impl Step for WakeReader {
    async fn step(&mut self) -> Result<Next, StepError> {
        if self.watches.is_empty() {
            self.subscription = None;
            return Ok(Next::After(IDLE));
        }
        if self.subscription.is_none() {
            let joining = self.realtime.join(vec![TOPIC.to_owned()], None, None);
            let mut subscription = joining.map_err(|error| StepError::new(error.to_string()))?;
            subscription.joined().await;
            self.subscription = Some(subscription);
            // Wake-ups before that are not delivered.
            self.verify(&self.watches.paths(), false).await?;
        }
        let Some(subscription) = &mut self.subscription else { return Ok(Next::Interval) };
        tokio::select! {
            () = subscription.ready() => {}
            () = tokio::time::sleep_until(self.check) => {
                self.check().await?;
                return Ok(Next::Interval);
            }
        }
        match subscription.next().await {
            Ok(realtime::Next::Change(change)) => {
                subscription.sent();
                self.wake(&change).await?;
            }
            Ok(_) => {}
            // It was dropped, and begins anew.
            Err(_end) => self.subscription = None,
        }
        Ok(Next::Interval)
    }

    fn recover(&mut self) {
        self.subscription = None;
    }
}
