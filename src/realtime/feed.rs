//! The feed reader: polls the table `changes` while there are topics, and publishes to the hub.
//!
//! Each poll delivers what its snapshot sees and that of the poll before did not, so no open transaction delays the others. Commits of this
//! node wake the reader; those of other nodes are found after `FEED_POLL_MS`. New subscribers join at the end of the first poll that began
//! behind their request: so that point of the feed includes everything that was committed before the request.

use std::sync::Arc;
use std::time::Duration;

use super::buffer::Dropped;
use super::hub::Hub;
use super::store::{ChangeStore, Range};
use super::{Place, Poll, Position, Snapshot};
use crate::config::limits;
use crate::db::{Database, DbError, ServerIdentity};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};
use crate::time::Micros;

/// The time of a statement.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The least time between two polls: changes that are committed meanwhile are read together.
const GAP: Duration = Duration::from_millis(3);
/// The wait after an error.
const AFTER_ERROR: Duration = Duration::from_millis(500);
/// Without topics: the time after which a step ends and the next one begins.
const IDLE: Duration = Duration::from_secs(10);

/// Reads the feed for the hub.
#[derive(Debug)]
pub struct FeedReader {
    hub: Hub,
    changes: ChangeStore,
    /// `None`: there are no topics, or the feed begins anew.
    progress: Option<Progress>,
}

#[derive(Debug)]
struct Progress {
    origin: ServerIdentity,
    /// What it saw was published.
    seen: Arc<Snapshot>,
    /// The end of a poll of which some pages were published, and their last place: after an error it goes on there.
    partial: Option<(Arc<Snapshot>, Place)>,
    /// The wait for a change of another node, doubled while none comes.
    pause: Duration,
}

impl FeedReader {
    /// Starts the task that reads the feed, with a quota of the pool.
    pub fn start(hub: &Hub, database: &Database, supervisor: &Supervisor) {
        let changes = ChangeStore::new(database, TIMEOUT);
        let reader = Self { hub: hub.clone(), changes, progress: None };
        supervisor.periodic("feed", Duration::ZERO, Backoff::fixed(AFTER_ERROR), reader);
    }

    /// The progress from which on all changes are published.
    async fn begin(&self) -> Result<Progress, DbError> {
        let (origin, seen) = self.changes.now().await?;
        Ok(Progress { origin, seen, partial: None, pause: GAP })
    }

    /// Publishes all changes up to now. False: some are missing.
    async fn poll(&mut self) -> Result<bool, DbError> {
        let begun = match self.progress.take() {
            Some(progress) => progress,
            None => {
                let begun = self.begin().await?;
                // A message of before is announced by no change.
                self.hub.wake_mail();
                begun
            }
        };
        let progress = self.progress.insert(begun);
        let poll = loop {
            let after = progress.partial.as_ref().map_or(Place::START, |(_, after)| *after);
            let end = progress.partial.as_ref().map(|(end, _)| end);
            let range = Range { base: &progress.seen, end, after };
            let page = self.changes.page(range).await?;
            if page.is_gone || page.poll.origin != progress.origin {
                return Ok(false);
            }
            if let Some(first) = page.changes.first() {
                // Clocks of two machines differ.
                let lag_us = Micros::now().0.saturating_sub(first.at_us).max(0);
                self.hub.metrics().feed_lag_seconds.observe(lag_us as f64 / 1e6);
            }
            progress.partial = Some((Arc::clone(&page.poll.end), page.next(after)));
            let (is_full, poll) = (page.is_full, Arc::clone(&page.poll));
            for change in page.changes {
                self.hub.publish(change);
            }
            if !is_full {
                break poll;
            }
        };
        let Poll { origin, end, .. } = &*poll;
        (progress.seen, progress.partial) = (Arc::clone(end), None);
        self.hub.set_published(Position::of(*origin, Arc::clone(end)));
        Ok(true)
    }
}

impl Step for FeedReader {
    async fn step(&mut self) -> Result<Next, StepError> {
        if !self.hub.has_topics() {
            self.progress = None;
            let _idle = tokio::time::timeout(IDLE, self.hub.woken()).await;
            return Ok(Next::Interval);
        }
        let joining = self.hub.joining();
        match self.poll().await {
            Ok(true) => self.hub.admit(joining),
            Ok(false) => {
                tracing::warn!(
                    "changes were deleted before they were read (CHANGES_RETENTION_S); subscribers begin anew"
                );
                self.hub.return_joining(joining);
                self.recover();
                return Ok(Next::Interval);
            }
            // Their requests are answered with an error.
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(GAP).await;
        let slowest = Duration::from_millis(limits::FEED_POLL_MS);
        let pause = self.progress.as_ref().map_or(GAP, |progress| progress.pause);
        let pause = tokio::select! {
            () = self.hub.woken() => GAP,
            () = tokio::time::sleep(pause) => (pause * 2).min(slowest),
        };
        if let Some(progress) = &mut self.progress {
            progress.pause = pause;
        }
        Ok(Next::Interval)
    }
}

impl FeedReader {
    /// Subscribers begin anew: part of a poll may have been published.
    fn recover(&mut self) {
        self.progress = None;
        self.hub.drop_all(Dropped::Behind);
    }
}
