//! The feed reader: reads the table `changes` while there are subscribers, and publishes to the hub.
//!
//! It starts at the horizon of its first poll: no change is added before it, and all changes behind it are published in order. Commits of this
//! node wake the reader; those of other nodes are found by polls, after `FEED_POLL_MS`. A change becomes readable once all older transactions
//! have ended, so the reader polls more often for a while after each.

use std::time::Duration;

use super::Position;
use super::buffer::Dropped;
use super::hub::{FeedState, Hub};
use super::store::ChangeStore;
use crate::config::limits;
use crate::db::{Database, DbError};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};
use crate::time::Micros;

/// The time of a statement.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The least time between two polls: changes that are committed meanwhile are read together.
const GAP: Duration = Duration::from_millis(3);
/// The wait after an error.
const AFTER_ERROR: Duration = Duration::from_millis(500);
/// Without subscribers: the time after which a step ends and the next one begins.
const IDLE: Duration = Duration::from_secs(10);

/// Reads the feed for the hub.
#[derive(Debug)]
pub struct FeedReader {
    hub: Hub,
    changes: ChangeStore,
    /// `None`: there are no subscribers, or the feed begins anew.
    progress: Option<Progress>,
}

#[derive(Debug)]
struct Progress {
    after: Position,
    /// The wait for a change of another node, doubled while none comes.
    pause: Duration,
}

/// The outcome of a poll.
enum Poll {
    /// All changes were read.
    Done,
    /// A full page was read.
    More,
    /// Changes are missing.
    Gone,
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
        let horizon = self.changes.horizon().await;
        let after = horizon.inspect_err(|_| self.hub.set_feed(FeedState::Failing))?;
        self.hub.set_published(after);
        self.hub.set_feed(FeedState::Running);
        Ok(Progress { after, pause: GAP })
    }
}

impl Step for FeedReader {
    async fn step(&mut self) -> Result<Next, StepError> {
        if !self.hub.has_subscribers() {
            self.progress = None;
            let _idle = tokio::time::timeout(IDLE, self.hub.woken()).await;
            return Ok(Next::Interval);
        }
        let begun = match self.progress.take() {
            Some(progress) => progress,
            None => self.begin().await?,
        };
        let progress = self.progress.insert(begun);
        match poll(&self.hub, &self.changes, &mut progress.after).await? {
            Poll::More => return Ok(Next::Interval),
            Poll::Done => {}
            Poll::Gone => {
                tracing::warn!(
                    "changes were deleted before they were read (CHANGES_RETENTION_S); subscribers begin anew"
                );
                self.recover();
                return Ok(Next::Interval);
            }
        }
        tokio::time::sleep(GAP).await;
        let slowest = Duration::from_millis(limits::FEED_POLL_MS);
        progress.pause = tokio::select! {
            () = self.hub.woken() => GAP,
            () = tokio::time::sleep(progress.pause) => (progress.pause * 2).min(slowest),
        };
        Ok(Next::Interval)
    }

    /// Subscribers begin anew: part of a page may have been published.
    fn recover(&mut self) {
        self.progress = None;
        self.hub.drop_all(Dropped::Behind);
    }
}

async fn poll(hub: &Hub, changes: &ChangeStore, after: &mut Position) -> Result<Poll, DbError> {
    let page = changes.page(*after).await?;
    if page.is_gone {
        return Ok(Poll::Gone);
    }
    if let Some(oldest) = page.changes.first() {
        // Clocks of two machines differ.
        let lag_us = Micros::now().0.saturating_sub(oldest.at_us).max(0);
        hub.metrics().feed_lag_seconds.observe(lag_us as f64 / 1e6);
    }
    for change in page.changes {
        hub.publish(change);
    }
    *after = page.next;
    hub.set_published(page.next);
    Ok(if page.is_full { Poll::More } else { Poll::Done })
}
