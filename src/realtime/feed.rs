//! The feed reader: polls the table `changes` while there are topics, and publishes to the hub.
//!
//! Each poll delivers what its snapshot sees and that of the poll before did not, so no open transaction delays the others. Commits of this
//! node wake the reader; those of other nodes are found after `FEED_POLL_MS`. New subscribers join at the end of the first poll that began
//! behind their request: so that point of the feed includes everything that was committed before the request.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::buffer::Dropped;
use super::hub::Hub;
use super::store::{ChangeStore, Look, Range};
use super::{Place, Poll, Position, Snapshot};
use crate::config::limits;
use crate::db::{Database, DbError, ServerIdentity};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};
use crate::time::Micros;

/// The time of a statement.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The time between two polls on average: changes that are committed meanwhile are read together.
const GAP: Duration = Duration::from_millis(4);
/// The same after a poll with [`BUSY_CHANGES`]: more are committed than a poll each costs little for.
const BUSY_GAP: Duration = Duration::from_millis(12);
/// Changes of a poll from which on times are busy.
const BUSY_CHANGES: usize = 32;
/// The polls that may follow each other without a gap.
const BURST: u32 = 10;
/// The shortest wait for changes of other nodes.
const SHORTEST_PAUSE: Duration = Duration::from_millis(3);
/// The polls without a look before them, after a look that was of no use.
const BLIND_POLLS: u8 = 8;
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
    pace: Pace,
    /// Whether a commit of this node, or a new subscriber, ended the last wait.
    is_woken: bool,
}

/// An allowance of polls: some at once, and one each [`GAP`] or [`BUSY_GAP`].
#[derive(Debug)]
struct Pace {
    /// When it is full again.
    full_at: Instant,
}

impl Pace {
    /// For a poll that began then, and found this number of changes.
    fn spend(&mut self, begun: Instant, changes: usize) {
        let gap = if changes < BUSY_CHANGES { GAP } else { BUSY_GAP };
        self.full_at = self.full_at.max(begun) + gap;
    }

    /// When the next poll may begin.
    fn next_at(&self) -> Instant {
        self.full_at.checked_sub(GAP * BURST).unwrap_or(self.full_at)
    }
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
    /// A look before a poll that found nothing: while it is the same, a poll would find nothing either.
    look: Option<Look>,
    /// The polls left without a look: where others write all the time, each look differs.
    blind: u8,
}

impl FeedReader {
    /// Starts the task that reads the feed, with a quota of the pool.
    pub fn start(hub: &Hub, database: &Database, supervisor: &Supervisor) {
        let changes = ChangeStore::new(database, TIMEOUT);
        let pace = Pace { full_at: Instant::now() };
        let reader = Self { hub: hub.clone(), changes, progress: None, pace, is_woken: false };
        supervisor.periodic("feed", Duration::ZERO, Backoff::fixed(AFTER_ERROR), reader);
    }

    /// The progress from which on all changes are published.
    async fn begin(&self) -> Result<Progress, DbError> {
        let (origin, seen) = self.changes.now().await?;
        Ok(Progress { origin, seen, partial: None, pause: SHORTEST_PAUSE, look: None, blind: 0 })
    }

    /// Looks whether there is anything new, which costs less than a poll.
    async fn is_quiet(&mut self) -> Result<bool, DbError> {
        let Some(progress) = self.progress.as_mut().filter(|progress| progress.partial.is_none()) else {
            return Ok(false);
        };
        // There is something new, as a rule.
        if self.is_woken {
            progress.look = None;
            return Ok(false);
        }
        if progress.blind > 0 {
            progress.blind -= 1;
            progress.look = None;
            return Ok(false);
        }
        let look = self.changes.look().await?;
        let is_quiet = progress.look.as_ref() == Some(&look);
        if progress.look.is_some() && !is_quiet {
            progress.blind = BLIND_POLLS;
        }
        progress.look = Some(look);
        Ok(is_quiet)
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
        let (begun_at, mut changes) = (Instant::now(), 0);
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
                // More may follow.
                progress.pause = SHORTEST_PAUSE;
            }
            progress.partial = Some((Arc::clone(&page.poll.end), page.next(after)));
            let (is_full, poll) = (page.is_full, Arc::clone(&page.poll));
            changes += page.changes.len();
            self.hub.publish(page.changes);
            if !is_full {
                break poll;
            }
        };
        self.pace.spend(begun_at, changes);
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
        // A failure is that of the poll.
        let polled = match self.is_quiet().await {
            Ok(true) => Ok(true),
            Ok(false) => self.poll().await,
            Err(error) => Err(error),
        };
        match polled {
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
            Err(error) => {
                if let Some(progress) = &mut self.progress {
                    // Its poll may have failed.
                    progress.look = None;
                }
                return Err(error.into());
            }
        }
        tokio::time::sleep_until(self.pace.next_at()).await;
        let slowest = Duration::from_millis(limits::FEED_POLL_MS);
        let pause = self.progress.as_ref().map_or(SHORTEST_PAUSE, |progress| progress.pause);
        self.is_woken = tokio::select! {
            () = self.hub.woken() => true,
            () = tokio::time::sleep(pause) => false,
        };
        let pause = if self.is_woken { SHORTEST_PAUSE } else { (pause * 2).min(slowest) };
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
